#include "cache_store/tiers/manifest_table.h"

#include <fmt/format.h>

namespace lexico::store {

absl::Status MemoryManifestTable::Put(const std::string& session_id, const ManifestRecord& record) {
  absl::MutexLock lock(&mutex_);
  records_[session_id] = record;
  return absl::OkStatus();
}

absl::StatusOr<ManifestRecord> MemoryManifestTable::Get(const std::string& session_id) const {
  absl::MutexLock lock(&mutex_);
  const auto it = records_.find(session_id);
  if (it == records_.end()) {
    return absl::NotFoundError(fmt::format("no manifest of session {}", session_id));
  }
  return it->second;
}

absl::Status MemoryManifestTable::Delete(const std::string& session_id, const Tombstone&) {
  absl::MutexLock lock(&mutex_);
  records_.erase(session_id);
  return absl::OkStatus();
}

absl::Status MemoryManifestTable::ForEach(
    const std::function<void(const std::string&, const ManifestRecord&)>& visit) const {
  absl::MutexLock lock(&mutex_);
  for (const auto& [session_id, record] : records_) visit(session_id, record);
  return absl::OkStatus();
}

}  // namespace lexico::store

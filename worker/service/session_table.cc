#include "worker/service/session_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "proto/rpc/status_map.h"
#include "worker/engine/errors.h"

namespace lexico::worker {
namespace {

absl::Status Unknown(const std::string& session_id) {
  return rpc::WithDetail(
      absl::NotFoundError(fmt::format("session {} is not on this worker", session_id)),
      "session_unknown");
}

absl::Status Stale(const std::string& session_id, uint64_t held, uint64_t named) {
  return rpc::WithDetail(
      absl::AbortedError(fmt::format("session {} is at epoch {} on this worker, the call names "
                                     "{}; retry through the coordinator",
                                     session_id, held, named)),
      "epoch_stale");
}

}  // namespace

SessionTable::Use::~Use() {
  if (table_ == nullptr) return;
  absl::MutexLock lock(&table_->mutex_);
  const auto it = table_->entries_.find(record.session_id);
  if (it != table_->entries_.end() && it->second.serial == serial_) it->second.in_use = false;
}

bool SessionTable::Use::Save() {
  absl::MutexLock lock(&table_->mutex_);
  const auto it = table_->entries_.find(record.session_id);
  if (it == table_->entries_.end() || it->second.serial != serial_) return false;
  // The writer may have made more durable since we took the record.
  record.n_durable_tokens = std::max(record.n_durable_tokens, it->second.record.n_durable_tokens);
  it->second.record = record;
  return true;
}

absl::StatusOr<SessionTable::Use> SessionTable::Add(SessionRecord record) {
  absl::MutexLock lock(&mutex_);
  const std::string id = record.session_id;
  const uint64_t serial = next_serial_++;
  const auto [it, added] =
      entries_.try_emplace(id, Entry{.record = record, .serial = serial, .in_use = true});
  if (!added) {
    return absl::AlreadyExistsError(
        fmt::format("session {} is on this worker at epoch {}", id, it->second.record.epoch));
  }
  return Use(this, serial, std::move(record));
}

const SessionTable::Entry* SessionTable::FindAt(const std::string& session_id, uint64_t epoch,
                                                absl::Status* error) const {
  const auto it = entries_.find(session_id);
  if (it == entries_.end()) {
    *error = Unknown(session_id);
    return nullptr;
  }
  if (it->second.record.epoch != epoch) {
    *error = Stale(session_id, it->second.record.epoch, epoch);
    return nullptr;
  }
  return &it->second;
}

absl::StatusOr<SessionTable::Use> SessionTable::Acquire(const std::string& session_id,
                                                        uint64_t epoch) {
  absl::MutexLock lock(&mutex_);
  absl::Status error;
  if (FindAt(session_id, epoch, &error) == nullptr) return error;
  Entry& entry = entries_.at(session_id);
  if (entry.in_use) {
    return rpc::WithDetail(
        absl::FailedPreconditionError(
            fmt::format("session {} has a call running; wait for it or cancel it", session_id)),
        kReasonSessionBusy);
  }
  entry.in_use = true;
  return Use(this, entry.serial, entry.record);
}

absl::StatusOr<SessionRecord> SessionTable::Get(const std::string& session_id,
                                                uint64_t epoch) const {
  absl::MutexLock lock(&mutex_);
  absl::Status error;
  const Entry* entry = FindAt(session_id, epoch, &error);
  if (entry == nullptr) return error;
  return entry->record;
}

absl::StatusOr<SessionRecord> SessionTable::Find(const std::string& session_id) const {
  absl::MutexLock lock(&mutex_);
  const auto it = entries_.find(session_id);
  if (it == entries_.end()) return Unknown(session_id);
  return it->second.record;
}

std::vector<SessionRecord> SessionTable::List() const {
  absl::MutexLock lock(&mutex_);
  std::vector<SessionRecord> records;
  for (const auto& [id, entry] : entries_) records.push_back(entry.record);
  return records;
}

bool SessionTable::IsInUse(const std::string& session_id) const {
  absl::MutexLock lock(&mutex_);
  const auto it = entries_.find(session_id);
  return it != entries_.end() && it->second.in_use;
}

bool SessionTable::Drop(const std::string& session_id, uint64_t epoch_max) {
  absl::MutexLock lock(&mutex_);
  const auto it = entries_.find(session_id);
  if (it == entries_.end() || it->second.record.epoch > epoch_max) return false;
  entries_.erase(it);
  return true;
}

void SessionTable::SetDurable(const std::string& session_id, uint64_t epoch, int64_t n_tokens) {
  absl::MutexLock lock(&mutex_);
  const auto it = entries_.find(session_id);
  if (it == entries_.end() || it->second.record.epoch != epoch) return;
  it->second.record.n_durable_tokens = std::max(it->second.record.n_durable_tokens, n_tokens);
}

}  // namespace lexico::worker

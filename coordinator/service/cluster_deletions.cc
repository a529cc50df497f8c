// Deletions that the store has not confirmed, and what the store has that nobody here knows.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "coordinator/registry/session_record.h"
#include "coordinator/service/cluster.h"
#include "coordinator/service/convert.h"
#include "coordinator/service/errors.h"
#include "coordinator/service/keys.h"
#include "proto/base/status.h"

namespace lexico::coord {
namespace {

std::string KeyOf(const std::string& session_id) {
  return std::string(kDeletedPrefix) + session_id;
}

}  // namespace

absl::Status Cluster::RecoverDeletions() {
  LEXICO_ASSIGN_OR_RETURN(const auto entries, state_.List(kDeletedPrefix));
  for (const StateEntry& entry : entries) {
    auto deletion = DecodeDeletion(entry.value);
    if (!deletion.ok()) {
      return base::Annotate(deletion.status(), fmt::format("record {}", entry.key));
    }
    deletion->revision = entry.revision;
    absl::MutexLock lock(&mutex_);
    if (registry_.Find(deletion->session_id) == nullptr) {
      deletions_[deletion->session_id] = *deletion;
      continue;
    }
    // The end came between two writes: of BeginDeletion, whose client heard of no success, or of
    // Create, whose session takes the deletion's place.
    LEXICO_RETURN_IF_ERROR(state_.Delete(entry.key, entry.revision));
  }
  return absl::OkStatus();
}

absl::Status Cluster::BeginDeletion(const Hold& hold) {
  const Session session = Held(hold);
  Deletion deletion{.session_id = session.session_id,
                    .epoch = session.epoch,
                    .create_time = session.create_time,
                    .delete_time = clock_.Now()};
  const auto revision = state_.Put(KeyOf(deletion.session_id), EncodeDeletion(deletion),
                                   /*expected_revision=*/0, Durability::kDurable);
  if (!revision.ok()) return StateFailed(revision.status());
  deletion.revision = *revision;
  LEXICO_RETURN_IF_ERROR(Remove(hold));
  absl::MutexLock lock(&mutex_);
  deletions_[deletion.session_id] = deletion;
  return absl::OkStatus();
}

std::optional<Cluster::PendingDeletion> Cluster::NextDeletion(const std::string& start_after) {
  absl::MutexLock lock(&mutex_);
  auto it = deletions_.upper_bound(start_after);
  for (size_t i = 0; i < deletions_.size(); ++i, ++it) {
    if (it == deletions_.end()) it = deletions_.begin();
    if (!admission_.BeginMove(it->first).ok()) continue;
    return PendingDeletion{Hold(this, it->first), it->second};
  }
  return std::nullopt;
}

absl::Status Cluster::EndDeletion(const Hold& hold) {
  uint64_t revision = 0;
  {
    absl::MutexLock lock(&mutex_);
    const auto it = deletions_.find(hold.session_id());
    if (it == deletions_.end()) return absl::OkStatus();
    revision = it->second.revision;
  }
  const absl::Status status = state_.Delete(KeyOf(hold.session_id()), revision);
  if (!status.ok()) return StateFailed(status);
  absl::MutexLock lock(&mutex_);
  deletions_.erase(hold.session_id());
  return absl::OkStatus();
}

size_t Cluster::n_deletions() {
  absl::MutexLock lock(&mutex_);
  return deletions_.size();
}

std::vector<v1::Orphan> Cluster::OrphansAmong(
    const google::protobuf::RepeatedPtrField<v1::ManifestEntry>& stored) {
  std::vector<v1::Orphan> orphans;
  absl::MutexLock lock(&mutex_);
  for (const v1::ManifestEntry& entry : stored) {
    if (deletions_.contains(entry.session_id())) continue;
    const Session* session = registry_.Find(entry.session_id());
    // A manifest without a birth cannot be read; its id is all that is known.
    const bool is_known =
        session != nullptr && (!entry.has_create_time() || IsOfSession(entry, *session));
    if (is_known) continue;
    v1::Orphan& orphan = orphans.emplace_back();
    orphan.set_session_id(entry.session_id());
    orphan.set_tenant(entry.tenant());
    orphan.set_epoch(entry.epoch());
    orphan.set_n_tokens(entry.n_tokens());
    orphan.set_n_pages(entry.n_pages());
    if (entry.has_create_time()) *orphan.mutable_create_time() = entry.create_time();
    *orphan.mutable_update_time() = entry.update_time();
  }
  return orphans;
}

}  // namespace lexico::coord

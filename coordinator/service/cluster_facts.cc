// What is known of sessions beside who has them (facts.h).
#include <algorithm>

#include "coordinator/service/cluster.h"
#include "coordinator/service/convert.h"

namespace lexico::coord {
namespace {

// While only the store is behind, or a worker does not answer.
constexpr absl::Duration kIntervalMax = absl::Seconds(30);

}  // namespace

void Cluster::MarkStale(const std::string& session_id) {
  stale_[session_id] = {.when = clock_.Now(), .interval = options_.facts_age / 2};
}

uint64_t Cluster::AskFacts() {
  absl::MutexLock lock(&mutex_);
  return ++last_question_;
}

void Cluster::UpdateFacts(const std::string& session_id, uint64_t epoch, uint64_t question,
                          const SessionFacts& facts) {
  absl::MutexLock lock(&mutex_);
  const Session* session = registry_.Find(session_id);
  // An answer that was overtaken by a move, or by the answer to a later question, says nothing any
  // more.
  if (session == nullptr || session->epoch != epoch) return;
  if (session->facts_question > question) return;
  if (session->placement != Placement::kResident) return;
  const bool is_settled =
      session->facts == facts && admission_.ActivityOf(session_id) == Activity::kNone;
  registry_.UpdateFacts(session_id, epoch, question, facts);
  if (!is_settled) {
    MarkStale(session_id);
    stale_[session_id].when += options_.facts_age / 2;
  } else if (facts.n_durable_tokens >= facts.n_tokens) {
    stale_.erase(session_id);
  }
}

std::vector<Cluster::Stale> Cluster::TakeStale() {
  absl::MutexLock lock(&mutex_);
  const absl::Time now = clock_.Now();
  std::vector<Stale> result;
  for (auto it = stale_.begin(); it != stale_.end();) {
    const Session* session = registry_.Find(it->first);
    if (session == nullptr || session->placement != Placement::kResident) {
      it = stale_.erase(it);
      continue;
    }
    Due& due = it->second;
    if (due.when <= now) {
      result.push_back({it->first, session->worker, session->epoch});
      due.when = now + due.interval;
      due.interval = std::min(2 * due.interval, kIntervalMax);
    }
    ++it;
  }
  return result;
}

bool Cluster::AnyTierMayChange() {
  absl::MutexLock lock(&mutex_);
  return std::ranges::any_of(registry_.sessions(), [](const auto& entry) {
    return entry.second.placement != Placement::kResident &&
           entry.second.facts.tier != v1::TIER_DISK;
  });
}

void Cluster::SetStoredTiers(const google::protobuf::RepeatedPtrField<v1::ManifestEntry>& stored) {
  absl::MutexLock lock(&mutex_);
  for (const v1::ManifestEntry& entry : stored) {
    const Session* session = registry_.Find(entry.session_id());
    if (session == nullptr || session->placement == Placement::kResident) continue;
    if (!IsOfSession(entry, *session)) continue;
    SessionFacts facts = session->facts;
    facts.tier = entry.tier();
    registry_.UpdateFacts(session->session_id, session->epoch, session->facts_question, facts);
  }
}

}  // namespace lexico::coord

// Random events against the registry; the promises R1 to R5 of registry.h hold after each. A
// failure prints the seed.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "coordinator/registry/registry.h"

namespace lexico::coord {
namespace {

constexpr absl::Duration kLease = absl::Seconds(3);

// A cluster of workers that behave, crash, fall silent and come back, and one registry.
class Simulation {
 public:
  explicit Simulation(uint64_t seed) : random_(seed), registry_(kLease) {}

  void Step() {
    now_ += absl::Milliseconds(Below(400));
    switch (Below(10)) {
      case 0:
        return Register(WorkerId());
      case 1:
      case 2:
      case 3:
        return Beat(WorkerId());
      case 4:
        return Add();
      case 5:
      case 6:
        return Place();
      case 7:
        registry_.Expire(now_);
        return;
      case 8:
        return Below(2) == 0 ? Leave() : Drain();
      default:
        return Disturb();
    }
  }

  // R1 to R5, and that time never moves an epoch back.
  void CheckPromises() {
    std::map<std::string, int64_t> resident;
    for (const auto& [id, session] : registry_.sessions()) {
      EXPECT_GE(session.epoch, epochs_[id]) << id;
      epochs_[id] = session.epoch;
      if (!session.worker.empty()) {
        const auto owner = owners_.emplace(std::make_pair(id, session.epoch), session.worker).first;
        EXPECT_EQ(owner->second, session.worker) << id << " at epoch " << session.epoch;
      }
      if (session.placement == Placement::kResident) {
        EXPECT_TRUE(registry_.IsLive(session.worker)) << id << " on " << session.worker;
        ++resident[session.worker];
      }
    }
    for (const auto& [id, worker] : registry_.workers()) {
      EXPECT_EQ(worker.n_sessions, resident[id]) << id;
      if (worker.state == WorkerState::kLost) continue;
      const bool is_empty = worker.n_sessions == 0;
      EXPECT_EQ(worker.state, !draining_.contains(id) ? WorkerState::kReady
                              : is_empty              ? WorkerState::kDrained
                                                      : WorkerState::kDraining)
          << id;
    }
  }

 private:
  int Below(int n) { return static_cast<int>(random_() % static_cast<uint64_t>(n)); }
  std::string WorkerId() { return "w" + std::to_string(Below(3)); }
  std::string SessionId() { return "s" + std::to_string(Below(6)); }

  std::vector<HeldSession> Held(const std::string& worker) {
    std::vector<HeldSession> held;
    for (const auto& [id, epoch] : held_[worker]) held.push_back({id, epoch});
    return held;
  }
  void Drop(const std::string& worker, const std::vector<HeldSession>& revoked) {
    for (const HeldSession& session : revoked) held_[worker].erase(session.session_id);
  }

  void Register(const std::string& worker) {
    if (Below(2) == 0) held_[worker].clear();  // it crashed and starts with nothing
    const auto result = registry_.Register({.worker_id = worker,
                                            .address = "h" + std::to_string(Below(2)) + ":1",
                                            .lease_id = std::to_string(++n_leases_),
                                            .model = {.name = "m"},
                                            .sessions = Held(worker)},
                                           now_);
    if (!result.ok()) return;
    leases_[worker] = std::to_string(n_leases_);
    Drop(worker, result->revoked);
  }
  void Beat(const std::string& worker) {
    const auto result = registry_.Heartbeat(worker, leases_[worker], {}, Held(worker), now_);
    if (result.ok()) Drop(worker, result->revoked);
  }
  void Add() {
    Session session;
    session.session_id = SessionId();
    session.epoch = epochs_[session.session_id] + 1;
    session.worker = WorkerId();
    session.placement = Placement::kResident;
    const uint64_t epoch = session.epoch;
    const std::string worker = session.worker, id = session.session_id;
    if (!registry_.IsLive(worker) || !registry_.Add(std::move(session)).ok()) return;
    held_[worker][id] = epoch;
  }
  void Place() {
    const std::string id = SessionId(), worker = WorkerId();
    const Session* session = registry_.Find(id);
    if (session == nullptr || !registry_.IsLive(worker)) return;
    const uint64_t epoch = session->epoch + 1;
    // A placement at an old epoch is refused whatever else happens.
    EXPECT_TRUE(absl::IsAborted(registry_.Place(id, worker, session->epoch)));
    EXPECT_TRUE(registry_.Place(id, worker, epoch).ok());
    if (Below(3) != 0) held_[worker][id] = epoch;  // or the message was lost
  }
  void Leave() {
    const std::string worker = WorkerId();
    if (!registry_.Deregister(worker, leases_[worker]).ok()) return;
    held_[worker].clear();
    draining_.erase(worker);
  }
  void Drain() {
    const std::string worker = WorkerId();
    const bool begins = Below(2) == 0;
    if (!registry_.SetDraining(worker, begins).ok()) return;
    begins ? (void)draining_.insert(worker) : (void)draining_.erase(worker);
  }
  void Disturb() {
    const std::string id = SessionId();
    const Session* session = registry_.Find(id);
    if (session == nullptr) return;
    switch (Below(4)) {
      case 0:
        registry_.SetPlacement(id, session->epoch, Placement::kOffloaded);
        return;
      case 1:
        registry_.SetPlacement(id, session->epoch, Placement::kRecovering);
        return;
      case 2:  // a late answer of an older epoch changes nothing
        EXPECT_FALSE(registry_.SetPlacement(id, session->epoch - 1, Placement::kResident));
        return;
      default:
        registry_.Remove(id);
        return;
    }
  }

  std::mt19937_64 random_;
  Registry registry_;
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  int n_leases_ = 0;
  std::map<std::string, std::string> leases_;
  std::map<std::string, std::map<std::string, uint64_t>> held_;  // by worker: what it believes
  std::set<std::string> draining_;
  std::map<std::string, uint64_t> epochs_;  // the largest seen
  std::map<std::pair<std::string, uint64_t>, std::string> owners_;
};

TEST(RegistryPropertyTest, PromisesHoldUnderRandomEvents) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Simulation simulation(seed);
    for (int step = 0; step < 500; ++step) {
      simulation.Step();
      simulation.CheckPromises();
      if (testing::Test::HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace lexico::coord

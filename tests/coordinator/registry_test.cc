#include "coordinator/registry/registry.h"

#include <gtest/gtest.h>

#include "coordinator/registry/session_record.h"
#include "tests/support/status_matchers.h"

namespace lexico::coord {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using tests::IsOk;
using tests::StatusIs;

constexpr absl::Duration kLease = absl::Seconds(5);

class RegistryTest : public testing::Test {
 protected:
  absl::StatusOr<Reconciled> Register(const std::string& worker, std::vector<HeldSession> held = {},
                                      const std::string& address = "h:1") {
    return registry_.Register({.worker_id = worker,
                               .address = address,
                               .lease_id = worker + "-lease",
                               .model = {.name = "m", .identity = "i"},
                               .sessions = std::move(held)},
                              now_);
  }
  absl::StatusOr<Reconciled> Beat(const std::string& worker, std::vector<HeldSession> held = {}) {
    return registry_.Heartbeat(worker, worker + "-lease", {}, held, now_);
  }
  void Add(const std::string& id, const std::string& worker, uint64_t epoch) {
    Session session;
    session.session_id = id;
    session.worker = worker;
    session.epoch = epoch;
    session.placement = Placement::kResident;
    ASSERT_THAT(registry_.Add(session), IsOk());
  }
  Placement PlacementOf(const std::string& id) { return registry_.Find(id)->placement; }

  Registry registry_{kLease};
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
};

TEST_F(RegistryTest, SecondWorkerOfOneIdIsRefusedWithBothAddresses) {
  ASSERT_THAT(Register("w1"), IsOk());
  const auto second = Register("w1", {}, "h:2");
  EXPECT_THAT(second, StatusIs(absl::StatusCode::kFailedPrecondition, "h:1"));
  EXPECT_THAT(second, StatusIs(absl::StatusCode::kFailedPrecondition, "h:2"));
}

TEST_F(RegistryTest, LostWorkersIdIsFreeForAnotherAddress) {
  ASSERT_THAT(Register("w1"), IsOk());
  now_ += kLease + absl::Milliseconds(1);
  registry_.Expire(now_);
  EXPECT_THAT(Register("w1", {}, "h:2"), IsOk());
}

TEST_F(RegistryTest, RestartAtTheSameAddressLosesWhatItDoesNotList) {
  ASSERT_THAT(Register("w1"), IsOk());
  Add("kept", "w1", 1);
  Add("gone", "w1", 1);
  const auto again = Register("w1", {{"kept", 1}});
  ASSERT_THAT(again, IsOk());
  EXPECT_THAT(again->changed, ElementsAre("gone"));
  EXPECT_THAT(again->revoked, IsEmpty());
  EXPECT_EQ(PlacementOf("kept"), Placement::kResident);
  EXPECT_EQ(PlacementOf("gone"), Placement::kRecovering);
  EXPECT_EQ(registry_.FindWorker("w1")->n_sessions, 1);
}

TEST_F(RegistryTest, HeartbeatWithUnknownLeaseIsRefused) {
  EXPECT_THAT(Beat("w1"), StatusIs(absl::StatusCode::kFailedPrecondition, "register again"));
  ASSERT_THAT(Register("w1"), IsOk());
  EXPECT_THAT(registry_.Heartbeat("w1", "other", {}, {}, now_),
              StatusIs(absl::StatusCode::kFailedPrecondition, "other"));
}

TEST_F(RegistryTest, HeartbeatRevokesStaleAndUnknownSessionsAndKeepsTheRest) {
  ASSERT_THAT(Register("w1"), IsOk());
  ASSERT_THAT(Register("w2", {}, "h:2"), IsOk());
  Add("moved", "w1", 1);
  Add("mine", "w1", 4);
  ASSERT_THAT(registry_.Place("moved", "w2", 2), IsOk());
  const auto beat = Beat("w1", {{"mine", 4}, {"moved", 1}, {"unknown", 9}});
  ASSERT_THAT(beat, IsOk());
  EXPECT_THAT(beat->revoked, ElementsAre(HeldSession{"moved", 1}, HeldSession{"unknown", 9}));
}

TEST_F(RegistryTest, CopyOfASessionThatNobodyHasIsKeptUntilSomebodyHasIt) {
  ASSERT_THAT(Register("w1"), IsOk());
  ASSERT_THAT(Register("w2", {}, "h:2"), IsOk());
  Add("s", "w1", 1);
  ASSERT_THAT(registry_.Place("s", "", 2), IsOk());  // fenced
  ASSERT_TRUE(registry_.SetPlacement("s", 2, Placement::kRecovering));
  EXPECT_EQ(registry_.KeeperOf("s"), "");
  const auto kept = Beat("w1", {{"s", 1}});
  EXPECT_THAT(kept->revoked, IsEmpty());
  EXPECT_THAT(kept->changed, IsEmpty());
  EXPECT_EQ(PlacementOf("s"), Placement::kRecovering);
  EXPECT_EQ(registry_.KeeperOf("s"), "w1");
  ASSERT_THAT(registry_.Place("s", "w2", 3), IsOk());
  EXPECT_EQ(registry_.KeeperOf("s"), "");
  EXPECT_THAT(Beat("w1", {{"s", 1}})->revoked, ElementsAre(HeldSession{"s", 1}));
}

TEST_F(RegistryTest, KeeperIsTheLiveWorkerWithTheNewestCopy) {
  ASSERT_THAT(Register("w1"), IsOk());
  ASSERT_THAT(Register("w2", {}, "h:2"), IsOk());
  Add("s", "w1", 1);
  ASSERT_THAT(registry_.Place("s", "w2", 2), IsOk());
  ASSERT_THAT(registry_.Place("s", "", 3), IsOk());
  ASSERT_TRUE(registry_.SetPlacement("s", 3, Placement::kRecovering));
  Beat("w1", {{"s", 1}}).status().IgnoreError();
  EXPECT_EQ(registry_.KeeperOf("s"), "w1");
  Beat("w2", {{"s", 2}}).status().IgnoreError();
  EXPECT_EQ(registry_.KeeperOf("s"), "w2");
  now_ += kLease;
  Beat("w1", {{"s", 1}}).status().IgnoreError();
  now_ += absl::Milliseconds(1);
  registry_.Expire(now_);
  EXPECT_EQ(registry_.KeeperOf("s"), "w1");
}

TEST_F(RegistryTest, CopyOfAnEarlierSessionIsNoKeeper) {
  ASSERT_THAT(Register("w1"), IsOk());
  ASSERT_THAT(Register("w2", {}, "h:2"), IsOk());
  Add("s", "w2", 1);
  ASSERT_THAT(registry_.Place("s", "", 2), IsOk());
  ASSERT_TRUE(registry_.SetPlacement("s", 2, Placement::kRecovering));
  Beat("w2", {{"s", 1}}).status().IgnoreError();
  // From before the journal was lost: of this id, and not this session.
  EXPECT_THAT(Beat("w1", {{"s", 9}})->revoked, ElementsAre(HeldSession{"s", 9}));
  EXPECT_EQ(registry_.KeeperOf("s"), "w2");
}

TEST_F(RegistryTest, SameEpochFromANonOwnerIsRevoked) {
  ASSERT_THAT(Register("w1"), IsOk());
  ASSERT_THAT(Register("w2", {}, "h:2"), IsOk());
  Add("s", "w1", 3);
  EXPECT_THAT(Beat("w2", {{"s", 3}})->revoked, ElementsAre(HeldSession{"s", 3}));
}

TEST_F(RegistryTest, UnlistedSessionIsLeftAlone) {
  ASSERT_THAT(Register("w1"), IsOk());
  Add("opening", "w1", 1);
  EXPECT_THAT(Beat("w1")->changed, IsEmpty());
  EXPECT_EQ(PlacementOf("opening"), Placement::kResident);
}

TEST_F(RegistryTest, OffloadedSessionInALateHeartbeatIsRevoked) {
  ASSERT_THAT(Register("w1"), IsOk());
  Add("s", "w1", 3);
  ASSERT_TRUE(registry_.SetPlacement("s", 3, Placement::kOffloaded));
  EXPECT_THAT(Beat("w1", {{"s", 3}})->revoked, ElementsAre(HeldSession{"s", 3}));
  EXPECT_EQ(PlacementOf("s"), Placement::kOffloaded);
}

TEST_F(RegistryTest, LargerEpochThanOursOwnsTheSession) {
  ASSERT_THAT(Register("w1"), IsOk());
  ASSERT_THAT(Register("w2", {}, "h:2"), IsOk());
  Session session;  // of a journal from a backup
  session.session_id = "s";
  session.worker = "w1";
  session.epoch = 3;
  session.placement = Placement::kResident;
  registry_.Load(session, now_);
  EXPECT_THAT(Beat("w2", {{"s", 7}})->changed, ElementsAre("s"));
  EXPECT_EQ(registry_.Find("s")->worker, "w2");
  EXPECT_EQ(registry_.Find("s")->epoch, 7u);
}

TEST_F(RegistryTest, LargerEpochOfAnEarlierSessionOfANewIdIsRevoked) {
  ASSERT_THAT(Register("w1"), IsOk());
  Add("s", "w1", 3);  // while nobody knew of w2
  EXPECT_THAT(Register("w2", {{"s", 7}}, "h:2")->revoked, ElementsAre(HeldSession{"s", 7}));
  EXPECT_EQ(registry_.Find("s")->worker, "w1");
  EXPECT_EQ(registry_.Find("s")->epoch, 3u);
}

TEST_F(RegistryTest, LeaseEndsAfterTheLeaseAndNotBefore) {
  ASSERT_THAT(Register("w1"), IsOk());
  Add("s", "w1", 1);
  EXPECT_THAT(registry_.Expire(now_ + kLease).workers, IsEmpty());
  const Expired expired = registry_.Expire(now_ + kLease + absl::Milliseconds(1));
  EXPECT_THAT(expired.workers, ElementsAre("w1"));
  EXPECT_THAT(expired.changed, ElementsAre("s"));
  EXPECT_EQ(PlacementOf("s"), Placement::kRecovering);
  EXPECT_EQ(registry_.FindWorker("w1")->state, WorkerState::kLost);
  EXPECT_EQ(registry_.WorkerNames(), "none");
}

TEST_F(RegistryTest, LostWorkerIsForgottenInTheEnd) {
  ASSERT_THAT(Register("w1"), IsOk());
  registry_.Expire(now_ + 2 * kLease);
  EXPECT_NE(registry_.FindWorker("w1"), nullptr);
  registry_.Expire(now_ + 2 * kLease + Registry::kLostKept);
  EXPECT_EQ(registry_.FindWorker("w1"), nullptr);
}

TEST_F(RegistryTest, LostWorkerThatComesBackOwnsItsSessionsAgain) {
  ASSERT_THAT(Register("w1"), IsOk());
  Add("s", "w1", 2);
  now_ += 2 * kLease;
  registry_.Expire(now_);
  EXPECT_THAT(Beat("w1", {{"s", 2}}), StatusIs(absl::StatusCode::kFailedPrecondition, "lease"));
  EXPECT_THAT(Register("w1", {{"s", 2}})->changed, ElementsAre("s"));
  EXPECT_EQ(PlacementOf("s"), Placement::kResident);
}

TEST_F(RegistryTest, DeregisterTellsOffloadedFromDropped) {
  ASSERT_THAT(Register("w1"), IsOk());
  Add("offloaded", "w1", 1);
  Add("dropped", "w1", 1);
  ASSERT_THAT(Beat("w1", {{"dropped", 1}}), IsOk());
  ASSERT_THAT(registry_.Deregister("w1", "w1-lease"), IsOk());
  EXPECT_EQ(PlacementOf("offloaded"), Placement::kOffloaded);
  EXPECT_EQ(PlacementOf("dropped"), Placement::kRecovering);
  EXPECT_THAT(registry_.Deregister("w1", "w1-lease"),
              StatusIs(absl::StatusCode::kFailedPrecondition, "w1"));
}

TEST_F(RegistryTest, JournalledSessionWaitsALeaseForItsWorker) {
  Session session;
  session.session_id = "s";
  session.worker = "w1";
  session.epoch = 5;
  session.placement = Placement::kResident;
  registry_.Load(session, now_);
  EXPECT_THAT(registry_.Expire(now_ + kLease).changed, IsEmpty());
  EXPECT_EQ(PlacementOf("s"), Placement::kResident);
  EXPECT_THAT(registry_.Expire(now_ + kLease + absl::Milliseconds(1)).changed, ElementsAre("s"));
  EXPECT_EQ(PlacementOf("s"), Placement::kRecovering);
}

TEST_F(RegistryTest, JournalledSessionIsTakenUpByItsReturningWorker) {
  Session session;
  session.session_id = "s";
  session.worker = "w1";
  session.epoch = 5;
  session.placement = Placement::kResident;
  registry_.Load(session, now_);
  ASSERT_THAT(Register("w1", {{"s", 5}}), IsOk());
  EXPECT_EQ(PlacementOf("s"), Placement::kResident);
  EXPECT_EQ(registry_.FindWorker("w1")->n_sessions, 1);
}

TEST_F(RegistryTest, DrainingOutlivesTheProcessUntilItLeavesInOrder) {
  ASSERT_THAT(Register("w1"), IsOk());
  ASSERT_THAT(registry_.SetDraining("w1", true), IsOk());
  ASSERT_THAT(Register("w1"), IsOk());
  EXPECT_EQ(registry_.FindWorker("w1")->state, WorkerState::kDrained);
  ASSERT_THAT(registry_.Deregister("w1", "w1-lease"), IsOk());
  ASSERT_THAT(Register("w1"), IsOk());
  EXPECT_EQ(registry_.FindWorker("w1")->state, WorkerState::kReady);
}

TEST_F(RegistryTest, DrainingWorkerIsDrainedWhileNothingIsResidentOnIt) {
  const auto state = [this] { return registry_.FindWorker("w1")->state; };
  ASSERT_THAT(Register("w1"), IsOk());
  ASSERT_THAT(Register("w2", {}, "h:2"), IsOk());
  Add("a", "w1", 1);
  Add("b", "w1", 1);
  ASSERT_THAT(registry_.SetDraining("w1", true), IsOk());
  EXPECT_EQ(state(), WorkerState::kDraining);
  ASSERT_THAT(registry_.Place("a", "w2", 2), IsOk());
  EXPECT_EQ(state(), WorkerState::kDraining);
  registry_.SetPlacement("b", 1, Placement::kOffloaded);
  EXPECT_EQ(state(), WorkerState::kDrained) << "whoever asked for the drain may be gone";
  Add("late", "w1", 1);  // was on its way when the drain began
  EXPECT_EQ(state(), WorkerState::kDraining);
  registry_.Remove("late");
  EXPECT_EQ(state(), WorkerState::kDrained);
  ASSERT_THAT(Register("w1", {{"unknown", 1}}), IsOk());
  EXPECT_EQ(state(), WorkerState::kDrained) << "what it holds is revoked";
  ASSERT_THAT(registry_.SetDraining("w1", false), IsOk());
  EXPECT_EQ(state(), WorkerState::kReady);
  now_ += 2 * kLease;
  registry_.Expire(now_);
  EXPECT_EQ(state(), WorkerState::kLost);
}

TEST_F(RegistryTest, DrainingAnUnknownWorkerNamesThoseThereAre) {
  ASSERT_THAT(Register("w1"), IsOk());
  EXPECT_THAT(registry_.SetDraining("w9", true), StatusIs(absl::StatusCode::kNotFound, "w1"));
}

TEST_F(RegistryTest, HeartbeatMakesAnUnreachableWorkerReachable) {
  ASSERT_THAT(Register("w1"), IsOk());
  registry_.MarkUnreachable("w1");
  EXPECT_TRUE(registry_.FindWorker("w1")->unreachable);
  ASSERT_THAT(Beat("w1"), IsOk());
  EXPECT_FALSE(registry_.FindWorker("w1")->unreachable);
}

TEST_F(RegistryTest, AddingTwiceIsRefused) {
  ASSERT_THAT(Register("w1"), IsOk());
  Add("s", "w1", 1);
  EXPECT_THAT(registry_.Add(*registry_.Find("s")), StatusIs(absl::StatusCode::kAlreadyExists, "s"));
  EXPECT_THAT(registry_.Place("none", "w1", 9), StatusIs(absl::StatusCode::kNotFound, "none"));
}

Session SampleSession() {
  Session session;
  session.session_id = "book-1";
  session.tenant = "acme";
  session.model = "lexico-20m";
  session.model_identity = "a/b/c";
  session.profile = "paper-s16";
  session.min_profile = "paper-s4";
  session.format = 1;
  session.parent = "book-0";
  session.create_fingerprint = "0123";
  session.create_time = absl::FromUnixMicros(1234567);
  session.last_use_time = absl::FromUnixMicros(2345678);
  session.system_prompt = std::string("be\0brief", 8);
  session.used = true;
  session.placement = Placement::kRecovering;
  session.worker = "w2";
  session.epoch = 42;
  session.facts = {.tier = 2,
                   .n_tokens = 20000,
                   .n_sealed_tokens = 19872,
                   .n_durable_tokens = 19999,
                   .code_bytes = 1,
                   .window_bytes = 2,
                   .bookkeeping_bytes = 3,
                   .fp16_equivalent_bytes = 4,
                   .relative_error_k = 0.25,
                   .relative_error_v = 0.5,
                   .profile = "paper-s8"};
  return session;
}

TEST(SessionRecordTest, EveryFieldComesBack) {
  const Session session = SampleSession();
  const auto decoded = DecodeSession(EncodeSession(session));
  ASSERT_THAT(decoded, IsOk());
  EXPECT_EQ(EncodeSession(*decoded), EncodeSession(session));
  EXPECT_EQ(decoded->session_id, "book-1");
  EXPECT_EQ(decoded->tenant, "acme");
  EXPECT_EQ(decoded->model, "lexico-20m");
  EXPECT_EQ(decoded->model_identity, "a/b/c");
  EXPECT_EQ(decoded->profile, "paper-s16");
  EXPECT_EQ(decoded->format, 1);
  EXPECT_EQ(decoded->parent, "book-0");
  EXPECT_EQ(decoded->create_fingerprint, "0123");
  EXPECT_EQ(decoded->create_time, session.create_time);
  EXPECT_EQ(decoded->last_use_time, session.last_use_time);
  EXPECT_EQ(decoded->system_prompt, session.system_prompt);
  EXPECT_TRUE(decoded->used);
  EXPECT_EQ(decoded->placement, Placement::kRecovering);
  EXPECT_EQ(decoded->worker, "w2");
  EXPECT_EQ(decoded->epoch, 42u);
  EXPECT_EQ(decoded->facts, session.facts);
  EXPECT_EQ(decoded->min_profile, "paper-s4");
}

// Of a journal that an earlier version wrote.
TEST(SessionRecordTest, Version1IsRead) {
  Session session = SampleSession();
  session.min_profile.clear();
  session.facts.profile.clear();
  std::string bytes = EncodeSession(session);
  bytes.resize(bytes.size() - 2 * sizeof(uint32_t));
  bytes[0] = 1;
  const auto decoded = DecodeSession(bytes);
  ASSERT_THAT(decoded, IsOk());
  EXPECT_EQ(EncodeSession(*decoded), EncodeSession(session));
}

TEST(SessionRecordTest, EveryTruncationIsDataLoss) {
  const std::string bytes = EncodeSession(SampleSession());
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_THAT(DecodeSession(bytes.substr(0, size)),
                StatusIs(absl::StatusCode::kDataLoss, "does not parse"))
        << size;
  }
  EXPECT_THAT(DecodeSession(bytes + "x"), StatusIs(absl::StatusCode::kDataLoss, ""));
}

TEST(SessionRecordTest, NewerVersionIsFailedPrecondition) {
  std::string bytes = EncodeSession(SampleSession());
  bytes[0] = 3;
  EXPECT_THAT(DecodeSession(bytes), StatusIs(absl::StatusCode::kFailedPrecondition, "version 3"));
}

TEST(SessionRecordTest, UnknownPlacementIsDataLoss) {
  std::string bytes = EncodeSession(SampleSession());
  bytes[2] = 3;
  EXPECT_THAT(DecodeSession(bytes), StatusIs(absl::StatusCode::kDataLoss, ""));
}

TEST(DeletionRecordTest, ComesBackAndEveryTruncationIsDataLoss) {
  const std::string bytes = EncodeDeletion({.session_id = "book-1",
                                            .epoch = 9,
                                            .create_time = absl::FromUnixMicros(1234567),
                                            .delete_time = absl::FromUnixMicros(2345678)});
  const auto deletion = DecodeDeletion(bytes);
  ASSERT_THAT(deletion, IsOk());
  EXPECT_EQ(deletion->session_id, "book-1");
  EXPECT_EQ(deletion->epoch, 9u);
  EXPECT_EQ(deletion->create_time, absl::FromUnixMicros(1234567));
  EXPECT_EQ(deletion->delete_time, absl::FromUnixMicros(2345678));
  for (size_t n = 0; n < bytes.size(); ++n) {
    EXPECT_THAT(DecodeDeletion(bytes.substr(0, n)), StatusIs(absl::StatusCode::kDataLoss, "")) << n;
  }
  EXPECT_THAT(DecodeDeletion("\x02" + bytes.substr(1)),
              StatusIs(absl::StatusCode::kFailedPrecondition, "version 2"));
}

}  // namespace
}  // namespace lexico::coord

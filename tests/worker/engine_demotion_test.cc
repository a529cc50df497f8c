// Demotions in the engine: by a call, under pressure, and what they leave alone.
#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "tests/worker/engine_fixture.h"

namespace lexico::worker {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;

class EngineDemotionTest : public EngineTest {
 protected:
  EngineDemotionTest() : EngineTest({.max_positions = 4096}) { RestartWith(64); }

  void RestartWith(int mib, absl::Duration memory_wait_max = absl::Seconds(5)) {
    EngineOptions options;
    options.kv_memory_bytes = static_cast<size_t>(mib) << 20;
    options.memory_wait_max = memory_wait_max;
    options.on_demoted = [this](const DemotionReport& report) { reports_.push_back(report); };
    reports_.clear();
    Restart(options);
  }
  void OpenFor(const std::string& id, const std::string& profile, const std::string& min_profile) {
    ASSERT_THAT(
        engine_->OpenSession({.session_id = id, .profile = profile, .min_profile = min_profile}),
        IsOk());
  }
  double Counter(const std::string& name, const std::vector<std::string>& labels = {}) {
    return metrics_.back()->Counter(name, labels).Value();
  }

  std::vector<DemotionReport> reports_;  // of the engine's thread; read when it is idle
};

TEST_F(EngineDemotionTest, ByACall) {
  OpenFor("a", "paper-s8", "");
  ASSERT_THAT(Append("a", RandomIds(1000)).result, IsOk());
  const SessionInfo before = *engine_->Describe("a");
  const auto demoted = engine_->Demote("a", "paper-s4");
  ASSERT_THAT(demoted, IsOk());
  EXPECT_EQ(demoted->profile, "paper-s4");
  EXPECT_EQ(demoted->birth_profile, "paper-s8");
  EXPECT_EQ(demoted->n_tokens, before.n_tokens);
  EXPECT_EQ(demoted->n_sealed_tokens, before.n_sealed_tokens);
  EXPECT_EQ(demoted->memory.code_bytes * 2, before.memory.code_bytes);
  EXPECT_GT(demoted->mean_error.k, before.mean_error.k);
  EXPECT_FALSE(demoted->busy);
  ASSERT_EQ(reports_.size(), 1u);
  EXPECT_EQ(reports_[0].from, "paper-s8");
  EXPECT_EQ(reports_[0].to, "paper-s4");
  EXPECT_TRUE(reports_[0].by_call);
  EXPECT_EQ(reports_[0].n_pages, before.n_sealed_tokens / 32 * 3);
  EXPECT_EQ(Counter("lexico_kv_demotions_total", {"call"}), 1);
  EXPECT_EQ(Counter("lexico_kv_demoted_pages_total"), static_cast<double>(reports_[0].n_pages));
  EXPECT_EQ(Counter("lexico_kv_demotion_freed_bytes_total"),
            static_cast<double>(reports_[0].freed_bytes));
  // It goes on, and new pages are of the new profile.
  const Outcome outcome = Generate(Request("a", RandomIds(3), 80));
  ASSERT_THAT(outcome.result, IsOk());
  EXPECT_EQ(outcome.result->session.profile, "paper-s4");
  EXPECT_GT(outcome.result->session.n_sealed_tokens, before.n_sealed_tokens);
}

TEST_F(EngineDemotionTest, WhatCannotBeDone) {
  OpenFor("a", "paper-s8", "");
  OpenFor("d", "dense", "");
  EXPECT_THAT(engine_->Demote("a", "paper-s"), StatusIs(StatusCode::kNotFound, "no profile"));
  EXPECT_THAT(engine_->Demote("b", "paper-s4"), StatusIs(StatusCode::kNotFound, "no session b"));
  EXPECT_THAT(engine_->Demote("a", "paper-s16"),
              StatusIs(StatusCode::kFailedPrecondition, "has not fewer atoms"));
  EXPECT_EQ(ReasonOf(engine_->Demote("a", "paper-s16").status()), kReasonNotSmaller);
  EXPECT_THAT(engine_->Demote("a", "paper-s8"),
              StatusIs(StatusCode::kFailedPrecondition, "has not fewer atoms"));
  EXPECT_THAT(engine_->Demote("a", "kv4"),
              StatusIs(StatusCode::kFailedPrecondition, "other coefficient bits"));
  EXPECT_THAT(engine_->Demote("d", "paper-s4"),
              StatusIs(StatusCode::kFailedPrecondition, "one is dense"));
  EXPECT_THAT(
      engine_->OpenSession({.session_id = "x", .profile = "paper-s8", .min_profile = "paper-s16"}),
      StatusIs(StatusCode::kFailedPrecondition, "min_profile"));
  EXPECT_THAT(
      engine_->OpenSession({.session_id = "x", .profile = "paper-s8", .min_profile = "paper-s"}),
      StatusIs(StatusCode::kNotFound, "no profile"));
  EXPECT_TRUE(reports_.empty());
}

TEST_F(EngineDemotionTest, ABusySessionIsRefused) {
  OpenFor("a", "paper-s8", "");
  Call call;
  call.HoldAt(2);
  ASSERT_THAT(engine_->Generate(Request("a", RandomIds(200), 10), call.callbacks()), IsOk());
  call.WaitForTokens();
  const auto refused = engine_->Demote("a", "paper-s4");
  EXPECT_THAT(refused, StatusIs(StatusCode::kFailedPrecondition, "call running"));
  EXPECT_EQ(ReasonOf(refused.status()), kReasonSessionBusy);
  call.Resume();
  EXPECT_THAT(call.Wait().result, IsOk());
}

TEST_F(EngineDemotionTest, CallsWaitForTheEndAndSeeOneSession) {
  OpenFor("a", "paper-s16", "");
  ASSERT_THAT(Append("a", RandomIds(3000)).result, IsOk());
  std::thread demoter([this] { EXPECT_THAT(engine_->Demote("a", "paper-s2"), IsOk()); });
  while (engine_->Describe("a")->profile == "paper-s16" && !engine_->Describe("a")->busy) {
    std::this_thread::yield();
  }
  const auto snapshot = engine_->Export("a", true);
  ASSERT_THAT(snapshot, IsOk());
  EXPECT_EQ(snapshot->manifest.profile, "paper-s2");
  const size_t bytes = snapshot->pages[0].header.shape.payload_bytes();
  for (const PageExport& page : snapshot->pages) {
    EXPECT_EQ(page.header.shape.payload_bytes(), bytes);
  }
  EXPECT_THAT(Generate(Request("a", RandomIds(2), 3)).result, IsOk());
  demoter.join();
  EXPECT_EQ(engine_->Describe("a")->profile, "paper-s2");
}

TEST_F(EngineDemotionTest, ADemotedSessionMovesAndGoesOnBitForBit) {
  OpenFor("a", "paper-s8", "paper-s2");
  ASSERT_THAT(Append("a", RandomIds(700)).result, IsOk());
  ASSERT_THAT(Generate(Request("a", RandomIds(3), 20)).result, IsOk());
  ASSERT_THAT(engine_->Demote("a", "paper-s4"), IsOk());
  ASSERT_THAT(Generate(Request("a", RandomIds(3), 50)).result, IsOk());
  const auto other = MakeEngine({});
  Move(*engine_, "a", *other);
  const SessionInfo info = *other->Describe("a");
  EXPECT_EQ(info.profile, "paper-s4");
  EXPECT_EQ(info.birth_profile, "paper-s8");
  EXPECT_EQ(info.min_profile, "paper-s2");
  EXPECT_EQ(info.n_pending_tokens, engine_->Describe("a")->n_pending_tokens);
  const GenerateRequest request = Request("a", RandomIds(4), 60);
  ExpectSameTokens(Generate(request), Generate(request, other.get()));
  EXPECT_EQ(engine_->Export("a", false)->manifest.page_keys,
            other->Export("a", false)->manifest.page_keys);
}

TEST_F(EngineDemotionTest, AForkInheritsWhatItMayBecome) {
  OpenFor("a", "paper-s8", "paper-s4");
  ASSERT_THAT(Append("a", RandomIds(500)).result, IsOk());
  ASSERT_THAT(engine_->Demote("a", "paper-s6"), IsOk());
  ASSERT_THAT(engine_->Fork("a", "b"), IsOk());
  EXPECT_EQ(engine_->Describe("b")->birth_profile, "paper-s8");
  EXPECT_EQ(engine_->Describe("b")->min_profile, "paper-s4");
  // Its pages are shared: the copies have room here.
  ASSERT_THAT(engine_->Demote("a", "paper-s4"), IsOk());
  EXPECT_EQ(engine_->Describe("b")->profile, "paper-s6");
  EXPECT_THAT(Generate(Request("b", RandomIds(2), 3)).result, IsOk());
}

// Fills the pool with sessions until one is refused; how many had room.
class EngineDemotionPressureTest : public EngineDemotionTest {
 protected:
  EngineDemotionPressureTest() { RestartWith(8, absl::Milliseconds(200)); }

  int Fill(const std::string& min_profile, absl::Status* refused, int n_tokens = 3500) {
    for (int i = 0; i < 200; ++i) {
      const std::string id = fmt::format("s{}", i);
      *refused = engine_->OpenSession(
          {.session_id = id, .profile = "paper-s16", .min_profile = min_profile});
      if (!refused->ok()) return i;
      *refused = Append(id, RandomIds(n_tokens, i)).result.status();
      if (!refused->ok()) return i;
    }
    return 200;
  }
};

TEST_F(EngineDemotionPressureTest, SessionsThatAllowItMakeRoomBeforeAnyIsRefused) {
  absl::Status refused;
  const int without = Fill("", &refused);
  EXPECT_EQ(ReasonOf(refused), kReasonPagesExhausted) << refused;
  EXPECT_TRUE(reports_.empty());
  RestartWith(8, absl::Milliseconds(200));
  const int with = Fill("paper-s4", &refused);
  EXPECT_EQ(ReasonOf(refused), kReasonPagesExhausted) << refused;
  // Windows take their part.
  EXPECT_GT(with, without * 3 / 2) << without;
  // Those used longest ago were first.
  ASSERT_GE(reports_.size(), 2u);
  EXPECT_EQ(reports_[0].session_id, "s0");
  EXPECT_EQ(reports_[1].session_id, "s1");
  EXPECT_FALSE(reports_[0].by_call);
  EXPECT_EQ(reports_[0].to, "paper-s4");
  EXPECT_GT(reports_[0].freed_bytes, 0);
  EXPECT_EQ(Counter("lexico_kv_demotions_total", {"memory"}), static_cast<double>(reports_.size()));
  EXPECT_EQ(engine_->load().n_pages_demotable, 0);
  EXPECT_EQ(engine_->Describe("s0")->profile, "paper-s4");
  EXPECT_EQ(engine_->Describe("s0")->birth_profile, "paper-s16");
  EXPECT_THAT(Generate(Request("s0", RandomIds(2), 3)).result, IsOk());
}

TEST_F(EngineDemotionPressureTest, ASessionThatDoesNotAllowItStaysAsItIs) {
  OpenFor("mine", "paper-s16", "");
  ASSERT_THAT(Append("mine", RandomIds(3500)).result, IsOk());
  absl::Status refused;
  Fill("paper-s4", &refused);
  EXPECT_FALSE(reports_.empty());
  EXPECT_EQ(engine_->Describe("mine")->profile, "paper-s16");
}

// No session is idle: those that answer need the room themselves.
TEST_F(EngineDemotionPressureTest, RunningSessionsMakeRoomForThemselves) {
  for (const char* min_profile : {"", "paper-s2"}) {
    RestartWith(8, absl::Milliseconds(200));
    absl::Status refused;
    const int n = Fill("", &refused, 3000);
    for (int i = 0; i <= n; ++i) engine_->Drop(fmt::format("s{}", i)).IgnoreError();
    std::vector<std::unique_ptr<Call>> calls;
    for (int i = 0; i < n; ++i) {
      const std::string id = fmt::format("r{}", i);
      OpenFor(id, "paper-s16", min_profile);
      ASSERT_THAT(Append(id, RandomIds(2980, i)).result, IsOk());
    }
    for (int i = 0; i < n; ++i) {
      calls.push_back(std::make_unique<Call>());
      GenerateRequest request = Request(fmt::format("r{}", i), RandomIds(3), 1000);
      request.ignore_end_tokens = true;
      ASSERT_THAT(engine_->Generate(std::move(request), calls.back()->callbacks()), IsOk());
    }
    int n_refused = 0;
    for (const auto& call : calls) {
      const absl::Status ended = call->Wait().result.status();
      if (ended.ok()) continue;
      ++n_refused;
      EXPECT_EQ(ReasonOf(ended), kReasonPagesExhausted) << ended;
    }
    if (*min_profile == '\0') {
      EXPECT_GT(n_refused, 0) << n;
      EXPECT_TRUE(reports_.empty());
    } else {
      EXPECT_EQ(n_refused, 0) << n;
      EXPECT_FALSE(reports_.empty());
    }
  }
}

TEST_F(EngineDemotionPressureTest, OpeningForkingAndRestoringFindRoomToo) {
  OpenFor("a", "paper-s16", "");
  ASSERT_THAT(Append("a", RandomIds(3500)).result, IsOk());
  auto snapshot = engine_->Export("a", true);
  ASSERT_THAT(snapshot, IsOk());
  store::Manifest manifest = snapshot->manifest;
  manifest.session_id = "a";
  snapshot = absl::UnknownError("its pages are let go");
  ASSERT_THAT(engine_->Drop("a"), IsOk());
  // Idle sessions take what is left, as long as that needs no demotion.
  int n = 0;
  const int64_t pages_of_one = 59 * 3;
  while (engine_->load().n_pages_free > 2 * pages_of_one) {
    const std::string id = fmt::format("s{}", n++);
    OpenFor(id, "paper-s16", "paper-s4");
    ASSERT_THAT(Append(id, RandomIds(2000, n)).result, IsOk());
  }
  ASSERT_TRUE(reports_.empty());
  EXPECT_GT(engine_->load().n_pages_demotable, 0);
  const auto import = engine_->BeginImport(manifest);
  ASSERT_THAT(import, IsOk());
  EXPECT_FALSE(reports_.empty());
  // And windows, of which a slab has several, until nothing is left to be demoted.
  absl::Status opened;
  for (int i = 0; opened.ok(); ++i) {
    opened = engine_->OpenSession({.session_id = fmt::format("w{}", i), .profile = "paper-s16"});
    ASSERT_LT(i, 1000);
  }
  EXPECT_EQ(ReasonOf(opened), kReasonPagesExhausted);
  EXPECT_EQ(static_cast<int>(reports_.size()), n);
  EXPECT_EQ(ReasonOf(engine_->Fork("s0", "f")), kReasonPagesExhausted);
}

}  // namespace
}  // namespace lexico::worker

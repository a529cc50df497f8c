// The guarantees of scheduler.h, by cases and by random loads with seeds.
#include "worker/engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

namespace lexico::worker {
namespace {

const absl::Time kStart = absl::UnixEpoch() + absl::Hours(24);

EngineState Running(std::vector<SequenceId> ids) {
  EngineState state;
  for (const SequenceId id : ids) state.running.push_back({.id = id});
  return state;
}

TEST(SchedulerTest, NothingToDoSaysSo) {
  const StepPlan plan = PlanStep({}, {}, kStart);
  EXPECT_TRUE(plan.empty());
  EXPECT_EQ(plan.idle, IdleReason::kNothingToDo);
}

TEST(SchedulerTest, AllRunningSequencesDecodeBesideOneSlice) {
  EngineState state = Running({1, 2, 3});
  state.prefills.push_back({.id = 9, .slices_left = 100, .last_slice = kStart});
  const StepPlan plan = PlanStep(state, {}, kStart);
  EXPECT_EQ(plan.decode, (std::vector<SequenceId>{1, 2, 3}));
  EXPECT_EQ(plan.slice, 9u);
  EXPECT_EQ(plan.idle, IdleReason::kNotIdle);
}

TEST(SchedulerTest, MoreSequencesThanABatchTakeTurns) {
  EngineState state = Running({1, 2, 3, 4, 5});
  StepBudget budget;
  budget.decode_seqs_max = 2;
  std::map<SequenceId, int> last;
  for (int step = 1; step <= 60; ++step) {
    const StepPlan plan = PlanStep(state, budget, kStart);
    ASSERT_EQ(plan.decode.size(), 2u);
    for (const SequenceId id : plan.decode) last[id] = step;
    ApplyPlan(plan, kStart, 0, &state);
    // ceil(5 / 2) steps are a turn.
    for (const SequenceId id : {1, 2, 3, 4, 5}) ASSERT_GE(last[id], step - 2) << id;
  }
}

TEST(SchedulerTest, TheShortestPrefillGoesFirst) {
  EngineState state;
  state.prefills = {{.id = 1, .slices_left = 500, .last_slice = kStart},
                    {.id = 2, .slices_left = 3, .last_slice = kStart}};
  EXPECT_EQ(PlanStep(state, {}, kStart).slice, 2u);
}

TEST(SchedulerTest, APrefillThatWaitedTooLongGoesBeforeShorterOnes) {
  EngineState state;
  state.prefills = {{.id = 1, .slices_left = 500, .last_slice = kStart},
                    {.id = 2, .slices_left = 3, .last_slice = kStart + absl::Milliseconds(900)}};
  EXPECT_EQ(PlanStep(state, {}, kStart + absl::Milliseconds(999)).slice, 2u);
  EXPECT_EQ(PlanStep(state, {}, kStart + absl::Milliseconds(1000)).slice, 1u);
}

TEST(SchedulerTest, TheFirstThatFitsIsAdmitted) {
  EngineState state;
  state.waiting = {{.id = 1, .arrival = kStart, .slabs_needed = 4},
                   {.id = 2, .arrival = kStart, .slabs_needed = 1}};
  StepBudget budget;
  budget.slabs_free = 4;
  EXPECT_EQ(PlanStep(state, budget, kStart).admit, 1u);
  budget.slabs_free = 3;
  EXPECT_EQ(PlanStep(state, budget, kStart).admit, 2u);
}

TEST(SchedulerTest, TheFirstIsNotOvertakenForever) {
  EngineState state;
  state.waiting = {{.id = 1, .arrival = kStart, .slabs_needed = 4},
                   {.id = 2, .arrival = kStart, .slabs_needed = 1}};
  StepBudget budget;
  budget.slabs_free = 3;
  const StepPlan plan = PlanStep(state, budget, kStart + budget.overtake_wait_max);
  EXPECT_FALSE(plan.admit.has_value());
  EXPECT_EQ(plan.idle, IdleReason::kWaitingForMemory);
}

TEST(SchedulerTest, MemoryKeptForSealingsIsNotGivenAway) {
  EngineState state = Running({7});
  state.waiting = {{.id = 1, .arrival = kStart, .slabs_needed = 1}};
  StepBudget budget;
  budget.slabs_free = 1;
  budget.slabs_reserved = 1;
  EXPECT_FALSE(PlanStep(state, budget, kStart).admit.has_value());
  budget.slabs_free = 2;
  EXPECT_EQ(PlanStep(state, budget, kStart).admit, 1u);
}

TEST(SchedulerTest, NeedingNothingIsAdmittedIntoAFullPool) {
  EngineState state;
  state.waiting = {{.id = 1, .arrival = kStart, .slabs_needed = 0}};
  StepBudget budget;
  budget.slabs_free = 0;
  budget.slabs_reserved = 3;
  EXPECT_EQ(PlanStep(state, budget, kStart).admit, 1u);
}

TEST(SchedulerTest, PrefillsMaxBoundsAdmission) {
  EngineState state;
  state.prefills = {{.id = 1, .slices_left = 5, .last_slice = kStart}};
  state.waiting = {{.id = 2, .arrival = kStart, .slabs_needed = 0}};
  StepBudget budget;
  budget.prefills_max = 1;
  EXPECT_FALSE(PlanStep(state, budget, kStart).admit.has_value());
}

TEST(SchedulerTest, MemoryThatIsMissingForTooLongIsARefusalAndOthersGoOn) {
  EngineState state;
  state.waiting = {{.id = 1, .arrival = kStart, .slabs_needed = 4},
                   {.id = 2, .arrival = kStart, .slabs_needed = 1}};
  StepBudget budget;
  budget.slabs_free = 3;
  NoteShortages(budget, kStart, &state);
  absl::Time now = kStart + budget.memory_wait_max - absl::Milliseconds(1);
  EXPECT_TRUE(PlanStep(state, budget, now).refuse.empty());
  now += absl::Milliseconds(1);
  NoteShortages(budget, now, &state);
  const StepPlan plan = PlanStep(state, budget, now);
  EXPECT_EQ(plan.refuse, std::vector<SequenceId>{1});
  EXPECT_EQ(plan.admit, 2u);  // the refused one stands in nobody's way
  ApplyPlan(plan, now, 1, &state);
  EXPECT_TRUE(state.waiting.empty());
}

TEST(SchedulerTest, ASequenceThatWaitsForItsTurnIsNotRefusedForMemory) {
  EngineState state;
  state.prefills = {{.id = 1, .slices_left = 5, .last_slice = kStart}};
  // One needs nothing, and memory is kept beyond what is free; one found some all the time.
  state.waiting = {{.id = 2, .arrival = kStart, .slabs_needed = 0},
                   {.id = 3, .arrival = kStart, .slabs_needed = 2}};
  StepBudget budget;
  budget.prefills_max = 1;
  budget.slabs_free = 4;
  const absl::Time now = kStart + absl::Minutes(1);
  NoteShortages(budget, now, &state);
  EXPECT_TRUE(PlanStep(state, budget, now).refuse.empty());
  // Memory is short now: the wait for it begins now.
  budget.slabs_free = 1;
  budget.slabs_reserved = 3;
  NoteShortages(budget, now, &state);
  EXPECT_TRUE(PlanStep(state, budget, now).refuse.empty());
  const absl::Time later = now + budget.memory_wait_max;
  NoteShortages(budget, later, &state);
  EXPECT_EQ(PlanStep(state, budget, later).refuse, std::vector<SequenceId>{3});
  // A break starts it again.
  budget.slabs_free = 8;
  NoteShortages(budget, later, &state);
  budget.slabs_free = 1;
  NoteShortages(budget, later, &state);
  EXPECT_TRUE(PlanStep(state, budget, later).refuse.empty());
}

// A load of random sequences, run to its end in simulated time: a step takes 5 ms and 100 ms more
// with a slice. Checks G1 to G6 at every step.
class Simulation {
 public:
  explicit Simulation(uint64_t seed) : random_(seed) {
    budget_.decode_seqs_max = static_cast<int>(1 + random_() % 5);
    budget_.prefills_max = static_cast<int>(1 + random_() % 3);
    n_slabs_ = static_cast<int64_t>(8 + random_() % 16);
    // Half of the loads refuse what waits for memory.
    budget_.memory_wait_max =
        seed % 2 == 0 ? absl::Milliseconds(random_() % 3000) : absl::InfiniteDuration();
    for (SequenceId id = 1; id <= 25; ++id) {
      jobs_[id] = {.arrival_step = static_cast<int>(random_() % 300),
                   .slices = static_cast<int64_t>(1 + random_() % 60),
                   .tokens = static_cast<int>(random_() % 40),
                   .slabs = static_cast<int64_t>(random_() % 8)};
    }
  }

  void Run() {
    for (int step = 0; step < 20000 && n_done_ < jobs_.size(); ++step) {
      Arrive(step);
      budget_.slabs_free = n_slabs_ - slabs_used_;
      budget_.slabs_reserved = state_.running.empty() ? 0 : 1;
      NoteShortages(budget_, now_, &state_);
      const StepPlan plan = PlanStep(state_, budget_, now_);
      ASSERT_EQ(plan, PlanStep(state_, budget_, now_));  // G4
      CheckPlan(plan);
      ASSERT_FALSE(testing::Test::HasFatalFailure());
      Carry(plan);
    }
    EXPECT_EQ(n_done_, jobs_.size());  // G3: everything ends
  }

 private:
  struct Job {
    int arrival_step;
    int64_t slices;
    int tokens;
    int64_t slabs;
    int steps_without_decode = 0;
    absl::Time short_since = absl::InfiniteFuture();
  };

  void Arrive(int step) {
    for (const auto& [id, job] : jobs_) {
      if (job.arrival_step != step) continue;
      state_.waiting.push_back({.id = id, .arrival = now_, .slabs_needed = job.slabs});
    }
  }

  void CheckPlan(const StepPlan& plan) {
    // G1
    ASSERT_LE(plan.decode.size(), static_cast<size_t>(budget_.decode_seqs_max));
    ASSERT_LE(state_.prefills.size() + (plan.admit ? 1 : 0),
              static_cast<size_t>(budget_.prefills_max));
    if (plan.admit.has_value() && jobs_[*plan.admit].slabs > 0) {
      ASSERT_LE(jobs_[*plan.admit].slabs, budget_.slabs_free - budget_.slabs_reserved);
    }
    // G2
    ASSERT_EQ(plan.decode.size(),
              std::min(state_.running.size(), static_cast<size_t>(budget_.decode_seqs_max)));
    ASSERT_EQ(plan.slice.has_value(), !state_.prefills.empty());
    // G3
    const auto n_running = static_cast<int>(state_.running.size());
    for (const RunningDecode& running : state_.running) {
      Job& job = jobs_[running.id];
      const bool ran =
          std::find(plan.decode.begin(), plan.decode.end(), running.id) != plan.decode.end();
      job.steps_without_decode = ran ? 0 : job.steps_without_decode + 1;
      // The number of running sequences changes underway; the largest bounds every turn.
      running_max_ = std::max(running_max_, n_running);
      ASSERT_LE(job.steps_without_decode, running_max_ / budget_.decode_seqs_max + 1);
    }
    for (const ActivePrefill& prefill : state_.prefills) {
      ASSERT_LE(now_ - prefill.last_slice,
                budget_.slice_wait_max + (budget_.prefills_max + 1) * absl::Milliseconds(105));
    }
    // G5
    if (plan.empty()) {
      ASSERT_TRUE(state_.running.empty());
      ASSERT_TRUE(state_.prefills.empty());
      ASSERT_EQ(plan.idle,
                state_.waiting.empty() ? IdleReason::kNothingToDo : IdleReason::kWaitingForMemory);
    }
    // G6
    for (const WaitingSequence& waiting : state_.waiting) {
      Job& job = jobs_[waiting.id];
      const bool fits = job.slabs == 0 || job.slabs <= budget_.slabs_free - budget_.slabs_reserved;
      job.short_since = fits ? absl::InfiniteFuture() : std::min(job.short_since, now_);
      const bool is_refused =
          std::find(plan.refuse.begin(), plan.refuse.end(), waiting.id) != plan.refuse.end();
      ASSERT_EQ(is_refused, !fits && now_ - job.short_since >= budget_.memory_wait_max);
    }
  }

  void Carry(const StepPlan& plan) {
    n_done_ += plan.refuse.size();
    const int64_t admitted = plan.admit ? jobs_[*plan.admit].slices : 0;
    if (plan.admit.has_value()) slabs_used_ += jobs_[*plan.admit].slabs;
    ApplyPlan(plan, now_, admitted, &state_);
    now_ += absl::Milliseconds(plan.slice ? 105 : 5);
    for (const SequenceId id : plan.decode) {
      if (--jobs_[id].tokens > 0) continue;
      std::erase_if(state_.running, [id](const RunningDecode& r) { return r.id == id; });
      End(id);
    }
    if (!plan.slice.has_value() || --jobs_[*plan.slice].slices > 0) return;
    const SequenceId id = *plan.slice;
    std::erase_if(state_.prefills, [id](const ActivePrefill& p) { return p.id == id; });
    if (jobs_[id].tokens > 0) {
      state_.running.push_back({.id = id, .last_step = state_.step});
    } else {
      End(id);
    }
  }

  void End(SequenceId id) {
    slabs_used_ -= jobs_[id].slabs;
    ++n_done_;
  }

  std::mt19937_64 random_;
  StepBudget budget_;
  EngineState state_;
  std::map<SequenceId, Job> jobs_;
  absl::Time now_ = kStart;
  int64_t n_slabs_ = 0;
  int64_t slabs_used_ = 0;
  size_t n_done_ = 0;
  int running_max_ = 0;
};

TEST(SchedulerPropertyTest, RandomLoadsKeepTheGuarantees) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Simulation(seed).Run();
    ASSERT_FALSE(testing::Test::HasFatalFailure());
  }
}

}  // namespace
}  // namespace lexico::worker

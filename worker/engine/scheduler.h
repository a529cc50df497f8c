// Decides the next step. A function: no clock, no threads, no device, no logging. The engine
// carries the plan out and calls ApplyPlan; the property tests call the same functions.
//
// A step is one decode step of the planned sequences, then one slice of one prefill (one layer of
// one block of rows, or one batch of coding): about 100 ms at most, so that a long prefill never
// holds up the tokens of other sessions for longer.
//
// Guarantees, tested in tests/worker/scheduler_test.cc with random loads:
//   G1  at most decode_seqs_max sequences decode, at most one slice runs and one sequence is
//       admitted; prefills never exceed prefills_max; an admitted sequence's slabs fit into
//       slabs_free - slabs_reserved
//   G2  a running decode is never left out for a prefill: a slice is planned only beside
//       min(n running, decode_seqs_max) decodes
//   G3  no starvation: a running sequence decodes at least every ceil(n_running / decode_seqs_max)
//       steps; an active prefill gets a slice at latest n_prefills steps after slice_wait_max; the
//       first waiting sequence is not overtaken once it has waited overtake_wait_max
//   G4  the same (state, budget, now) gives the same plan
//   G5  an empty plan is returned only if nothing can run, and then plan.idle says why
//   G6  a waiting sequence is refused once its slabs have been missing for memory_wait_max without
//   a
//       break, and not for anything else: none that fits is refused, whatever else it waits for;
//       a time when more slabs are being made free is a break
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/time/time.h"

namespace lexico::worker {

using SequenceId = uint64_t;

struct RunningDecode {
  SequenceId id = 0;
  uint64_t last_step = 0;  // number of the step it last ran in
};

struct ActivePrefill {
  SequenceId id = 0;
  int64_t slices_left = 0;  // an estimate; orders prefills, shortest first
  absl::Time last_slice;    // when it last got one, or was admitted
};

struct WaitingSequence {
  SequenceId id = 0;
  absl::Time arrival;
  int64_t slabs_needed = 0;  // of the page pool, for the pages of its prefill
  // Since when they have been missing without a break (NoteShortages).
  absl::Time short_since = absl::InfiniteFuture();
};

struct EngineState {
  uint64_t step = 1;                     // number of the next step; 0 is before any
  std::vector<RunningDecode> running;    // in the order they started
  std::vector<ActivePrefill> prefills;   // in the order they were admitted
  std::vector<WaitingSequence> waiting;  // in the order of arrival
};

struct StepBudget {
  int decode_seqs_max = 64;
  int prefills_max = 4;
  int64_t slabs_free = 0;
  // Kept for sealings of running sequences, so that an admission does not end their calls.
  int64_t slabs_reserved = 0;
  // More are being made free: nobody is refused for want of them now.
  bool relief_comes = false;
  // A prefill that has not had a slice for this long goes first. One second: a reader notices.
  absl::Duration slice_wait_max = absl::Seconds(1);
  // How long smaller sequences may pass the first one that waits for memory.
  absl::Duration overtake_wait_max = absl::Seconds(5);
  // How long a sequence waits for memory before it is refused.
  absl::Duration memory_wait_max = absl::Seconds(5);
};

enum class IdleReason {
  kNotIdle,
  kNothingToDo,       // no sequence at all
  kWaitingForMemory,  // sequences wait, none may take its slabs yet
};

struct StepPlan {
  std::vector<SequenceId> refuse;  // for want of memory
  std::vector<SequenceId> decode;
  std::optional<SequenceId> admit;  // becomes an active prefill; its first slice is in a later plan
  std::optional<SequenceId> slice;
  IdleReason idle = IdleReason::kNotIdle;

  bool operator==(const StepPlan&) const = default;
  bool empty() const {
    return refuse.empty() && decode.empty() && !admit.has_value() && !slice.has_value();
  }
};

// Whether a sequence waits for slabs.
bool IsShort(const EngineState& state, const StepBudget& budget);

// Keeps WaitingSequence::short_since; before every PlanStep, when slabs_needed and the budget are
// those of `now`.
void NoteShortages(const StepBudget& budget, absl::Time now, EngineState* state);

StepPlan PlanStep(const EngineState& state, const StepBudget& budget, absl::Time now);

// The state after the plan was carried out: counters, the refused are gone, and the admitted
// sequence among the prefills with `admitted_slices` left.
void ApplyPlan(const StepPlan& plan, absl::Time now, int64_t admitted_slices, EngineState* state);

}  // namespace lexico::worker

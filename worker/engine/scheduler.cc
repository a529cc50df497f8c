#include "worker/engine/scheduler.h"

#include <algorithm>

#include "proto/base/check.h"

namespace lexico::worker {
namespace {

// Those that waited longest; among equals in the order they started.
std::vector<SequenceId> ChooseDecodes(const EngineState& state, int decode_seqs_max) {
  std::vector<RunningDecode> order = state.running;
  std::stable_sort(order.begin(), order.end(), [](const RunningDecode& a, const RunningDecode& b) {
    return a.last_step < b.last_step;
  });
  if (order.size() > static_cast<size_t>(decode_seqs_max)) order.resize(decode_seqs_max);
  std::vector<SequenceId> ids;
  for (const RunningDecode& decode : order) ids.push_back(decode.id);
  return ids;
}

// The one that has waited too long, longest first; otherwise the shortest.
std::optional<SequenceId> ChooseSlice(const EngineState& state, const StepBudget& budget,
                                      absl::Time now) {
  const ActivePrefill* chosen = nullptr;
  for (const ActivePrefill& prefill : state.prefills) {
    if (now - prefill.last_slice < budget.slice_wait_max) continue;
    if (chosen == nullptr || prefill.last_slice < chosen->last_slice) chosen = &prefill;
  }
  if (chosen != nullptr) return chosen->id;
  for (const ActivePrefill& prefill : state.prefills) {
    if (chosen == nullptr || prefill.slices_left < chosen->slices_left) chosen = &prefill;
  }
  if (chosen == nullptr) return std::nullopt;
  return chosen->id;
}

// The one place that knows whether a sequence may take its slabs now.
bool Fits(const WaitingSequence& waiting, const StepBudget& budget) {
  return waiting.slabs_needed <= std::max<int64_t>(budget.slabs_free - budget.slabs_reserved, 0);
}

bool IsRefused(const WaitingSequence& waiting, const StepBudget& budget, absl::Time now) {
  return !budget.relief_comes && !Fits(waiting, budget) &&
         now - waiting.short_since >= budget.memory_wait_max;
}

// The first that fits; later ones only while the first has not waited too long.
std::optional<SequenceId> ChooseAdmission(const EngineState& state, const StepBudget& budget,
                                          absl::Time now) {
  if (state.prefills.size() >= static_cast<size_t>(budget.prefills_max)) return std::nullopt;
  for (const WaitingSequence& waiting : state.waiting) {
    if (Fits(waiting, budget)) return waiting.id;
    if (IsRefused(waiting, budget, now)) continue;
    if (now - waiting.arrival >= budget.overtake_wait_max) return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace

bool IsShort(const EngineState& state, const StepBudget& budget) {
  return std::any_of(state.waiting.begin(), state.waiting.end(),
                     [&](const WaitingSequence& waiting) { return !Fits(waiting, budget); });
}

void NoteShortages(const StepBudget& budget, absl::Time now, EngineState* state) {
  for (WaitingSequence& waiting : state->waiting) {
    const bool is_break = budget.relief_comes || Fits(waiting, budget);
    waiting.short_since = is_break ? absl::InfiniteFuture() : std::min(waiting.short_since, now);
  }
}

StepPlan PlanStep(const EngineState& state, const StepBudget& budget, absl::Time now) {
  LEXICO_CHECK_GT(budget.decode_seqs_max, 0);
  LEXICO_CHECK_GT(budget.prefills_max, 0);
  StepPlan plan;
  for (const WaitingSequence& waiting : state.waiting) {
    if (IsRefused(waiting, budget, now)) plan.refuse.push_back(waiting.id);
  }
  plan.decode = ChooseDecodes(state, budget.decode_seqs_max);
  plan.admit = ChooseAdmission(state, budget, now);
  plan.slice = ChooseSlice(state, budget, now);
  if (plan.empty()) {
    plan.idle = state.waiting.empty() ? IdleReason::kNothingToDo : IdleReason::kWaitingForMemory;
  }
  return plan;
}

void ApplyPlan(const StepPlan& plan, absl::Time now, int64_t admitted_slices, EngineState* state) {
  std::erase_if(state->waiting, [&](const WaitingSequence& waiting) {
    return std::find(plan.refuse.begin(), plan.refuse.end(), waiting.id) != plan.refuse.end();
  });
  for (RunningDecode& decode : state->running) {
    if (std::find(plan.decode.begin(), plan.decode.end(), decode.id) != plan.decode.end()) {
      decode.last_step = state->step;
    }
  }
  for (ActivePrefill& prefill : state->prefills) {
    if (plan.slice != prefill.id) continue;
    prefill.last_slice = now;
    prefill.slices_left = std::max<int64_t>(prefill.slices_left - 1, 0);
  }
  if (plan.admit.has_value()) {
    std::erase_if(state->waiting,
                  [&](const WaitingSequence& waiting) { return waiting.id == *plan.admit; });
    state->prefills.push_back(
        {.id = *plan.admit, .slices_left = admitted_slices, .last_slice = now});
  }
  ++state->step;
}

}  // namespace lexico::worker

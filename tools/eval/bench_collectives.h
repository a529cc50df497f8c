// What a split model spends on its ranks' sums and gathers (lexico-bench-engine).
#pragma once

#include <cstdint>
#include <span>

#include "worker/model/model_rank.h"

namespace lexico::eval {

// Seconds of the collective calls of one forward pass of n_rows rows, of which n_logits rows have
// logits, made one after another without anything between; 0 for a model that is not split.
// REQUIRES: no engine computes with the ranks meanwhile.
double MeasureCollectives(std::span<const worker::ModelRank> ranks, int64_t n_rows,
                          int64_t n_logits);

}  // namespace lexico::eval

// What coding and attending cost, by the size of the dictionary and the number of atoms a vector.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/api/stream.h"
#include "tools/eval/sweep/result_table.h"

namespace lexico::eval {

struct CodingCostOptions {
  std::vector<int64_t> n_atoms = {256, 512, 1024, 2048, 4096};
  std::vector<int64_t> sparsities = {4, 8, 16, 32};
  int64_t head_dim = 128;
  int64_t n_heads = 8;
  int64_t n_kv_heads = 2;
  int64_t n_tokens = 16384;  // that a decode step attends to
  int64_t n_vectors = 4096;  // coded in one call
  double seconds = 0.5;      // of measuring a figure
};

// One layer's ops, timed where they run in a worker's step (medians, wall clock), with random unit
// atoms and codes: the time of neither depends on what they say. Columns: n_atoms, sparsity,
// code_us (a vector), attention_us (a step), bytes (a vector), dictionaries_kib (K and V of a
// layer, FP16). InvalidArgument for shapes that profiles do not allow. CPU only.
absl::StatusOr<ResultTable> SweepCodingCost(const CodingCostOptions& options,
                                            const kernels::Stream& stream);

}  // namespace lexico::eval

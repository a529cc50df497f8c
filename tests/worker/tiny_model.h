// A random Llama small enough for sanitizers, with random dictionaries: right answers do not
// matter, equal ones do.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/api/stream.h"
#include "tests/support/temp_dir.h"
#include "worker/model/model_rank.h"

namespace lexico::tests {

struct TinyModelOptions {
  int n_layers = 3;
  int n_heads = 4;
  int n_kv_heads = 2;
  int head_dim = 16;
  int hidden_dim = 32;
  int vocab_size = 61;
  int max_positions = 1024;
  int n_atoms = 64;
  std::string dtype = "bfloat16";  // the cache type follows from it; weights are F32
  // Scale of K projections: large ones overflow an F16 cache.
  float weight_scale = 0.4f;
  uint64_t seed = 1;
};

// Writes the files and loads them, on one stream or split over several. CHECK-fails when that does
// not work: it is the tests' own bug.
std::vector<worker::ModelRank> MakeTinyModel(const TinyModelOptions& options,
                                             std::span<const kernels::Stream> streams);
inline std::vector<worker::ModelRank> MakeTinyModel(const TinyModelOptions& options,
                                                    const kernels::Stream& stream) {
  return MakeTinyModel(options, {&stream, 1});
}

}  // namespace lexico::tests

// Writes a model folder (Hugging Face layout) of a given shape with seeded random weights and
// random unit dictionaries, so that speed and memory of the shape can be measured without a
// checkpoint. The numbers are real ones: keys and values are of order one and finite, attention is
// spread over all positions.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "tools/random_model/preset.h"

namespace lexico::random_model {

struct RandomModelOptions {
  std::string out;  // the folder, made; refused where it holds anything
  uint64_t seed = 0;
  int n_atoms = 4096;  // of a random dictionary; 0: none is written
  // Folder whose tokenizer.json and tokenizer_config.json are copied, so that servers take text.
  // Empty: none, then only lexico-bench-engine and lexico-eval logits run it.
  std::string tokenizer;
  int threads = 1;
};

// What the tensors of the folder take, weights and dictionaries.
int64_t BytesOf(const Preset& preset, int n_atoms);

// How long WriteRandomModel computes for `bytes`, from a piece that is computed for this. Writing
// comes on top.
double SecondsFor(int64_t bytes, int threads);

// Shards of at most 4 GiB and their index; config.json is written last, so that a folder which is
// not complete is not taken for a model. `progress` hears the fraction done, of any thread.
// AlreadyExists: `out` is not empty. ResourceExhausted, before anything is written: the disk has
// too little room, with both values. InvalidArgument: n_atoms outside limits.h, or
// a tokenizer with more ids than the vocabulary of the shape.
absl::Status WriteRandomModel(const Preset& preset, const RandomModelOptions& options,
                              const std::function<void(double fraction)>& progress);

}  // namespace lexico::random_model

// Keys and values of all layers, a random choice of bounded size: what dictionaries are trained on
// and judged by. Vectors are kept in BF16, as most caches hold them.
//
// Dictionaries are numbered 2 * layer + (value ? 1 : 0). Vector i of every dictionary belongs to
// the same token and KV head.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace lexico::train_dictionary {

// "layers.3.k", as in files.
std::string DictionaryName(int dictionary);

// A number of the place `index` of sequence `stream` of `seed`, uniform over 64 bits.
uint64_t RandomAt(uint64_t seed, uint64_t stream, uint64_t index);

// A row of a window's [n_tokens * n_kv_heads] and the slot of the set it goes to.
struct Pick {
  int64_t row;
  int64_t slot;
};

// Thread-compatible.
class VectorSet {
 public:
  // Slots are filled in a shuffled order that depends on the seed alone.
  VectorSet(int n_layers, int head_dim, int64_t n_vectors, uint64_t seed);

  int n_dictionaries() const { return static_cast<int>(vectors_.size()); }
  int head_dim() const { return head_dim_; }
  int64_t n_vectors() const { return n_vectors_; }
  int64_t n_filled() const { return n_filled_; }

  // Chooses n of n_rows rows at random, without repetition, for the next n slots. Row r stands at
  // position first_position + r / n_kv_heads. REQUIRES: n <= n_rows, room for n
  std::vector<Pick> Choose(int64_t n, int64_t n_rows, int n_kv_heads, int64_t first_position);
  // Keeps the picked rows [*, head_dim]. InvalidArgument with the dictionary and the position when
  // one is not finite.
  absl::Status Keep(int dictionary, const float* rows, std::span<const Pick> picks);

  // Vectors first .. first + n - 1 to [n, head_dim] as they are, and scaled to norm `norm` (zero
  // vectors stay zero).
  void Copy(int dictionary, int64_t first, int64_t n, float* to) const;
  void CopyScaled(int dictionary, int64_t first, int64_t n, float norm, float* to) const;
  int32_t position(int64_t vector) const { return positions_[vector]; }

 private:
  int head_dim_;
  int64_t n_vectors_;
  uint64_t seed_;
  int64_t n_filled_ = 0;
  std::vector<int64_t> order_;                  // slot of the i-th pick
  std::vector<int32_t> positions_;              // [n_vectors]
  std::vector<std::vector<uint16_t>> vectors_;  // [n_dictionaries][n_vectors, head_dim] BF16
};

}  // namespace lexico::train_dictionary

#include "tools/train_dictionary/vector_set.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "proto/base/check.h"
#include "proto/base/split_mix.h"

namespace lexico::train_dictionary {
namespace {

// Streams of random numbers: the order of slots, and the rows of each window after it.
constexpr uint64_t kOrderStream = 0;

// The first n of 0 .. size - 1 in the order of their random numbers.
std::vector<int64_t> RandomOrder(int64_t n, int64_t size, uint64_t seed, uint64_t stream) {
  std::vector<std::pair<uint64_t, int64_t>> keys(size);
  for (int64_t i = 0; i < size; ++i) keys[i] = {RandomAt(seed, stream, i), i};
  std::partial_sort(keys.begin(), keys.begin() + n, keys.end());
  std::vector<int64_t> order(n);
  for (int64_t i = 0; i < n; ++i) order[i] = keys[i].second;
  return order;
}

// Finite values; to nearest, ties to even.
uint16_t Bf16Of(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float FloatOf(uint16_t bf16) { return std::bit_cast<float>(uint32_t{bf16} << 16); }

}  // namespace

std::string DictionaryName(int dictionary) {
  return fmt::format("layers.{}.{}", dictionary / 2, dictionary % 2 == 0 ? 'k' : 'v');
}

uint64_t RandomAt(uint64_t seed, uint64_t stream, uint64_t index) {
  const uint64_t start = base::SplitMixFinish(base::SplitMix(seed) ^ stream);
  return base::SplitMixFinish(start + (index + 1) * base::kSplitMixStep);
}

VectorSet::VectorSet(int n_layers, int head_dim, int64_t n_vectors, uint64_t seed)
    : head_dim_(head_dim),
      n_vectors_(n_vectors),
      seed_(seed),
      order_(RandomOrder(n_vectors, n_vectors, seed, kOrderStream)),
      positions_(n_vectors),
      vectors_(2 * n_layers, std::vector<uint16_t>(n_vectors * head_dim)) {}

std::vector<Pick> VectorSet::Choose(int64_t n, int64_t n_rows, int n_kv_heads,
                                    int64_t first_position) {
  LEXICO_CHECK_LE(n, n_rows);
  LEXICO_CHECK_LE(n_filled_ + n, n_vectors_);
  std::vector<Pick> picks;
  for (const int64_t row : RandomOrder(n, n_rows, seed_, 1 + n_filled_)) {
    const int64_t slot = order_[n_filled_++];
    positions_[slot] = static_cast<int32_t>(first_position + row / n_kv_heads);
    picks.push_back({row, slot});
  }
  return picks;
}

absl::Status VectorSet::Keep(int dictionary, const float* rows, std::span<const Pick> picks) {
  for (const Pick& pick : picks) {
    const float* from = rows + pick.row * head_dim_;
    uint16_t* to = vectors_[dictionary].data() + pick.slot * head_dim_;
    for (int j = 0; j < head_dim_; ++j) {
      if (!std::isfinite(from[j])) {
        return absl::InvalidArgumentError(fmt::format(
            "{}: component {} of a vector at position {} is {}; the model overflows there, so it "
            "cannot be served either",
            DictionaryName(dictionary), j, positions_[pick.slot], from[j]));
      }
      to[j] = Bf16Of(from[j]);
    }
  }
  return absl::OkStatus();
}

void VectorSet::Copy(int dictionary, int64_t first, int64_t n, float* to) const {
  const uint16_t* from = vectors_[dictionary].data() + first * head_dim_;
  for (int64_t i = 0; i < n * head_dim_; ++i) to[i] = FloatOf(from[i]);
}

void VectorSet::CopyScaled(int dictionary, int64_t first, int64_t n, float norm, float* to) const {
  Copy(dictionary, first, n, to);
  for (int64_t i = 0; i < n; ++i) {
    float* row = to + i * head_dim_;
    double squares = 0;
    for (int j = 0; j < head_dim_; ++j) squares += double{row[j]} * row[j];
    const auto scale = static_cast<float>(squares > 0 ? norm / std::sqrt(squares) : 0);
    for (int j = 0; j < head_dim_; ++j) row[j] *= scale;
  }
}

}  // namespace lexico::train_dictionary

#include "tools/train_dictionary/vector_set.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/api/elementwise.h"
#include "kernels/api/rows.h"
#include "proto/base/check.h"
#include "proto/base/split_mix.h"
#include "proto/base/status.h"

namespace lexico::train_dictionary {
namespace {

using kernels::DeviceBuffer;
using kernels::DType;
using kernels::MutableTensorView;
using kernels::TensorView;

// Streams of random numbers: the order of places, and the runs of each window after it.
constexpr uint64_t kOrderStream = 0;
// Keeps zero vectors zero when they are scaled; of no weight beside any other.
constexpr float kEpsilon = 1e-30F;

}  // namespace

std::string DictionaryName(int dictionary) {
  return fmt::format("layers.{}.{}", dictionary / 2, dictionary % 2 == 0 ? 'k' : 'v');
}

uint64_t RandomAt(uint64_t seed, uint64_t stream, uint64_t index) {
  const uint64_t start = base::SplitMixFinish(base::SplitMix(seed) ^ stream);
  return base::SplitMixFinish(start + (index + 1) * base::kSplitMixStep);
}

std::vector<int64_t> RandomOrder(int64_t n, int64_t size, uint64_t seed, uint64_t stream) {
  std::vector<std::pair<uint64_t, int64_t>> keys(size);
  for (int64_t i = 0; i < size; ++i) keys[i] = {RandomAt(seed, stream, i), i};
  std::partial_sort(keys.begin(), keys.begin() + n, keys.end());
  std::vector<int64_t> order(n);
  for (int64_t i = 0; i < n; ++i) order[i] = keys[i].second;
  return order;
}

absl::StatusOr<VectorSet> VectorSet::Create(const VectorSetShape& shape,
                                            const kernels::Stream& stream) {
  LEXICO_CHECK_EQ(shape.n_vectors % kRunRows, 0);
  VectorSet set(shape, stream);
  const size_t n_runs = shape.window_rows_max / kRunRows;
  const std::pair<DeviceBuffer*, size_t> buffers[] = {
      {&set.staging_, shape.window_rows_max * shape.head_dim * sizeof(uint16_t)},
      {&set.scale_, shape.head_dim * sizeof(float)},
      {&set.from_, n_runs * sizeof(void*)},
      {&set.to_, shape.n_dictionaries * n_runs * sizeof(void*)},
      {&set.non_finite_, shape.n_dictionaries * sizeof(int32_t)},
  };
  for (const auto& [buffer, bytes] : buffers) {
    LEXICO_ASSIGN_OR_RETURN(*buffer, DeviceBuffer::Allocate(bytes, stream));
  }
  const size_t bytes = shape.n_vectors * shape.head_dim * sizeof(uint16_t);
  for (int i = 0; i < shape.n_dictionaries; ++i) {
    auto buffer = DeviceBuffer::Allocate(bytes, stream);
    if (!buffer.ok()) {
      return base::Annotate(
          buffer.status(),
          fmt::format("{} vectors of {} dictionaries take {:.1f} GiB; lower --samples",
                      shape.n_vectors, shape.n_dictionaries,
                      static_cast<double>(bytes) * shape.n_dictionaries / (1 << 30)));
    }
    set.vectors_.push_back(*std::move(buffer));
  }
  const std::vector<float> scale(shape.head_dim,
                                 shape.norm / std::sqrt(static_cast<float>(shape.head_dim)));
  set.scale_.CopyFrom(scale.data(), set.scale_.bytes());
  stream.Zero(set.non_finite_.as<int32_t>(), set.non_finite_.bytes());
  set.Clear(0);
  return set;
}

void VectorSet::Clear(uint64_t seed) {
  seed_ = seed;
  n_runs_filled_ = 0;
  const int64_t n_runs = n_vectors() / kRunRows;
  order_ = RandomOrder(n_runs, n_runs, seed, kOrderStream);
}

uint16_t* VectorSet::RunOf(int dictionary, int64_t run) const {
  return vectors_[dictionary].as<uint16_t>() + run * kRunRows * head_dim();
}

void VectorSet::BeginWindow(int64_t n_rows, int64_t n_runs, int64_t first_position) {
  LEXICO_CHECK_LE(n_rows, shape_.window_rows_max);
  const int64_t n_there = n_rows / kRunRows;
  n_picks_ = std::min({n_runs, n_there, std::ssize(order_) - n_runs_filled_});
  window_begin_ = first_position;
  window_end_ = first_position + n_rows / shape_.n_kv_heads;
  if (n_picks_ == 0) return;
  std::vector<const void*> from(n_picks_);
  std::vector<void*> to(n_dictionaries() * n_picks_);
  const std::vector<int64_t> picks = RandomOrder(n_picks_, n_there, seed_, 1 + n_runs_filled_);
  for (int64_t i = 0; i < n_picks_; ++i) {
    const int64_t place = order_[n_runs_filled_ + i];
    from[i] = staging_.as<uint16_t>() + picks[i] * kRunRows * head_dim();
    for (int d = 0; d < n_dictionaries(); ++d) to[d * n_picks_ + i] = RunOf(d, place);
    for (int64_t r = 0; r < kRunRows; ++r) {
      positions_[place * kRunRows + r] =
          static_cast<int32_t>(first_position + (picks[i] * kRunRows + r) / shape_.n_kv_heads);
    }
  }
  n_runs_filled_ += n_picks_;
  from_.CopyFrom(from.data(), from.size() * sizeof(void*));
  to_.CopyFrom(to.data(), to.size() * sizeof(void*));
}

void VectorSet::Keep(int dictionary, MutableTensorView rows) {
  if (n_picks_ == 0) return;
  if (shape_.norm > 0) {
    kernels::RmsNorm(rows, TensorView(scale_.as<float>(), {head_dim()}), kEpsilon, rows, stream_);
  }
  kernels::RoundToType(rows, DType::kBF16, non_finite_.as<int32_t>() + dictionary, stream_);
  kernels::Convert(
      rows, MutableTensorView(staging_.as<uint16_t>(), DType::kBF16, {rows.dim(0), rows.dim(1)}),
      stream_);
  kernels::CopyBlocks(from_.as<const void*>(), to_.as<void*>() + dictionary * n_picks_, n_picks_,
                      kRunRows * head_dim() * sizeof(uint16_t), stream_);
}

absl::Status VectorSet::EndWindow() {
  std::vector<int32_t> non_finite(n_dictionaries());
  non_finite_.CopyTo(non_finite.data(), non_finite_.bytes());
  for (int i = 0; i < n_dictionaries(); ++i) {
    if (non_finite[i] == 0) continue;
    return absl::InvalidArgumentError(fmt::format(
        "{}: a number of a vector at positions {} .. {} is not finite; the model overflows there, "
        "so it cannot be served either",
        DictionaryName(i), window_begin_, window_end_ - 1));
  }
  return absl::OkStatus();
}

void VectorSet::Copy(int dictionary, int64_t first, int64_t n, float* to) const {
  const uint16_t* from = vectors_[dictionary].as<uint16_t>() + first * head_dim();
  kernels::Convert(TensorView(from, DType::kBF16, {n, head_dim()}),
                   MutableTensorView(to, {n, head_dim()}), stream_);
}

std::vector<float> VectorSet::Download(int dictionary) const {
  std::vector<uint16_t> halves(n_vectors() * head_dim());
  vectors_[dictionary].CopyTo(halves.data(), halves.size() * sizeof(uint16_t));
  std::vector<float> vectors(halves.size());
  std::transform(halves.begin(), halves.end(), vectors.begin(),
                 [](uint16_t half) { return std::bit_cast<float>(uint32_t{half} << 16); });
  return vectors;
}

}  // namespace lexico::train_dictionary

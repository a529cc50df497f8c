#include "kernels/bench/gpu_arrays.h"

#include <algorithm>
#include <bit>
#include <random>
#include <utility>

#include "proto/base/check.h"

namespace lexico::kernels::bench {
namespace {

// A prime, so that rows of a matrix differ.
constexpr int64_t kPeriod = 1'000'003;

std::vector<float> Period() {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> values(kPeriod);
  for (float& value : values) value = normal(random);
  return values;
}

template <typename T>
std::vector<T> Repeated(const std::vector<T>& period, int64_t n) {
  std::vector<T> values(n);
  for (int64_t i = 0; i < n; i += kPeriod) {
    std::copy_n(period.begin(), std::min(kPeriod, n - i), values.begin() + i);
  }
  return values;
}

}  // namespace

DeviceBuffer AllocateOn(size_t bytes, const Stream& stream) {
  auto buffer = DeviceBuffer::Allocate(bytes, stream);
  LEXICO_CHECK(buffer.ok());
  return *std::move(buffer);
}

std::vector<uint16_t> RandomBf16(int64_t n) {
  std::vector<uint16_t> period;
  // Cut instead of rounded: for a bench any numbers will do.
  for (const float x : Period()) {
    period.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16));
  }
  return Repeated(period, n);
}

DeviceBuffer RandomOn(int64_t n, DType type, const Stream& stream) {
  if (type == DType::kBF16) return UploadTo(RandomBf16(n), stream);
  LEXICO_CHECK(type == DType::kF32);
  return UploadTo(Repeated(Period(), n), stream);
}

}  // namespace lexico::kernels::bench

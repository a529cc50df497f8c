#include "tools/random_model/random_values.h"

#include <bit>
#include <cmath>
#include <vector>

#include "proto/base/split_mix.h"

namespace lexico::random_model {
namespace {

float NormalFrom(uint64_t bits) {
  const auto sum = static_cast<int64_t>((bits & 0xffff) + ((bits >> 16) & 0xffff) +
                                        ((bits >> 32) & 0xffff) + (bits >> 48));
  // Of four uniform numbers of 0 .. 65,535: mean 131,070, variance 4 (65,536^2 - 1) / 12.
  constexpr float kScale = 1.0F / 37837.23F;
  return static_cast<float>(sum - 131070) * kScale;
}

uint64_t StartOf(const Stream& stream) {
  return base::SplitMixFinish(base::SplitMix(stream.seed) ^ stream.array);
}

// Finite values only.
uint16_t Bf16Of(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// |value| <= 1. To nearest, ties to even; below 2^-14 in steps of 2^-24.
uint16_t F16Of(float value) {
  const uint32_t sign = std::signbit(value) ? 0x8000 : 0;
  const float magnitude = std::fabs(value);
  if (magnitude < 0x1p-14F) {
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::lrint(magnitude * 0x1p24F)));
  }
  const auto bits = std::bit_cast<uint32_t>(magnitude);
  const uint32_t rounded = bits + 0xfff + ((bits >> 13) & 1);
  return static_cast<uint16_t>(sign | ((rounded - (112U << 23)) >> 13));
}

}  // namespace

float NormalAt(const Stream& stream, uint64_t index) {
  return NormalFrom(base::SplitMixFinish(StartOf(stream) + (index + 1) * base::kSplitMixStep));
}

void FillBf16(const Stream& stream, uint64_t first, double mean, double deviation,
              std::span<uint16_t> values) {
  const uint64_t start = StartOf(stream) + (first + 1) * base::kSplitMixStep;
  const auto m = static_cast<float>(mean);
  const auto d = static_cast<float>(deviation);
  for (size_t j = 0; j < values.size(); ++j) {
    values[j] = Bf16Of(m + d * NormalFrom(base::SplitMixFinish(start + j * base::kSplitMixStep)));
  }
}

void FillUnitRowF16(const Stream& stream, uint64_t row, std::span<uint16_t> values) {
  std::vector<float> numbers(values.size());
  double norm_squared = 0;
  for (size_t j = 0; j < values.size(); ++j) {
    numbers[j] = NormalAt(stream, row * values.size() + j);
    norm_squared += double{numbers[j]} * numbers[j];
  }
  const auto scale = static_cast<float>(1 / std::sqrt(norm_squared));
  for (size_t j = 0; j < values.size(); ++j) values[j] = F16Of(numbers[j] * scale);
}

}  // namespace lexico::random_model

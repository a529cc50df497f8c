// Seeded random numbers by place: element i of an array depends on the seed, the array and i only,
// so arrays are filled by any number of threads in any order.
#pragma once

#include <cstdint>
#include <span>

namespace lexico::random_model {

// Two random arrays of one seed have different streams.
struct Stream {
  uint64_t seed;
  uint64_t array;
};

// Nearly normal, mean 0 and variance 1: the sum of four uniform numbers of 16 bits (Irwin-Hall;
// its tails end at 3.46). One number of base/split_mix.h each, because a
// model has 10^10 of them.
float NormalAt(const Stream& stream, uint64_t index);

// values[j] = mean + deviation * NormalAt(first + j), rounded to nearest BF16.
void FillBf16(const Stream& stream, uint64_t first, double mean, double deviation,
              std::span<uint16_t> values);

// Row `row` of unit length, as F16.
void FillUnitRowF16(const Stream& stream, uint64_t row, std::span<uint16_t> values);

}  // namespace lexico::random_model

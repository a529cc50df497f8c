// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): random numbers that are a function of a seed and a
// place, the same on every machine. Number i of the generator of `seed` is
// SplitMixFinish(seed + (i + 1) * kSplitMixStep).
#pragma once

#include <cstdint>

namespace lexico::base {

inline constexpr uint64_t kSplitMixStep = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio, odd

constexpr uint64_t SplitMixFinish(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// The first number of a seed.
constexpr uint64_t SplitMix(uint64_t seed) { return SplitMixFinish(seed + kSplitMixStep); }

}  // namespace lexico::base

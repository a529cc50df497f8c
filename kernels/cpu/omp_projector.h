// Scores of the residuals of a block of vectors by products with all atoms: D is read once for the
// block.
#pragma once

#include <hwy/aligned_allocator.h>

#include <array>
#include <cstdint>
#include <span>

#include "kernels/cpu/dictionary.h"
#include "kernels/cpu/omp_bytes.h"
#include "kernels/cpu/omp_pursuit.h"
#include "kernels/cpu/omp_scores.h"

namespace lexico::kernels::cpu {

// Vectors taken together at most: two tiles of AMX. Otherwise 24, whose 16-bit forms, 6 KiB at 128
// components, leave L1 to a panel: 1 MiB of D is read once for them.
inline constexpr int kBlockVectorsMax = 32;
int BlockVectorsMax(const Dictionary& dictionary);

class Projector {
 public:
  // Rough: 2 % of the residual's norm off where the processor multiplies bytes, and half the time.
  // Fine: 0.04 % off.
  enum class Precision { kRough, kFine };

  Projector(const Dictionary& dictionary, int block_vectors);

  // Scores of the residual of pursuits[i] to scores[i], valid until the next call.
  void Project(std::span<Pursuit* const> pursuits, Precision precision, Scores* scores);

 private:
  void ProjectInBytes(std::span<Pursuit* const> pursuits, Scores* scores);
  void ProjectInShorts(std::span<Pursuit* const> pursuits, Scores* scores);

  const Dictionary& dictionary_;
  hwy::AlignedFreeUniquePtr<int16_t[]> components_;  // [block_vectors, row_stride]
  hwy::AlignedFreeUniquePtr<int16_t[]> values_;      // [n_groups, block_vectors, kGroupAtoms]
  hwy::AlignedFreeUniquePtr<int16_t[]> maxima_;      // [n_groups, block_vectors, kGroupMaxima]
  std::array<ByteVector, kBlockVectorsMax> vectors_;
};

}  // namespace lexico::kernels::cpu

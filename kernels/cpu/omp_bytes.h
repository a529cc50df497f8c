// The direct search in 8 bits, for processors with dot products of bytes: AVX-512 VNNI, four
// products a lane and instruction, twice as many as in 16 bits; or AMX, 16 times as many. Sums are
// exact, so both give the same scores.
//
// Component c has a weight w_c, the largest |d_ac| of all atoms, or a quarter of the largest weight
// where that is more. With q = round(alpha w r) and
// p_a = round(127 d_a / w), component by component, and ||d_a|| = 1:
//   |<q, p_a> - 127 alpha <r, d_a>| <= 127 ||(alpha w r - q) / w|| + ||q / w|| ||127 d_a - w p_a||
// All four norms are computed, not estimated. On trained dictionaries of 4096 x 128 the bound is 2
// % of ||r||, the largest score a third of ||r||.
#pragma once

#include <hwy/aligned_allocator.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lexico::kernels::cpu {

enum class ByteUnit { kNone, kVnni, kAmx };

// What this processor has, as Bf16Unit allows it (ONEDNN_MAX_CPU_ISA). Nothing below may be called
// where it is kNone.
ByteUnit BestByteUnit();

// D in 8 bits. Immutable.
class BytePanels {
 public:
  static constexpr int kAtoms = 32;

  // rows [n_atoms, row_stride]; padded_atoms is a multiple of kAtoms.
  BytePanels(const float* rows, int n_atoms, int row_stride, int padded_atoms);

  // [padded_atoms / kAtoms, n_quads, 2, 16, 4]: component c of atom j of a panel, plus 128, is byte
  // c % 4 of lane (j / 8) * 4 + j % 4 of vector j / 4 % 2 of quad c / 4: in this order two vectors
  // of sums narrow to one of scores without a permutation. Atoms past n_atoms are 0.
  const uint8_t* panel(int i) const { return data_.get() + i * panel_bytes(); }
  int n_panels() const { return n_panels_; }
  // The fastest unit for this dictionary: AMX takes 64 or 128 components.
  ByteUnit unit() const {
    const bool tiles = n_quads_ == 16 || n_quads_ == 32;
    return BestByteUnit() == ByteUnit::kAmx && !tiles ? ByteUnit::kVnni : BestByteUnit();
  }
  int n_quads() const { return n_quads_; }
  const float* weights() const { return weights_.data(); }                  // [4 * n_quads]; w
  const float* inverse_weights() const { return inverse_weights_.data(); }  // 1 / w
  float rounding() const { return rounding_; }  // the largest ||127 d_a - w p_a||
  size_t bytes() const { return n_panels_ * panel_bytes(); }

 private:
  size_t panel_bytes() const { return static_cast<size_t>(n_quads_) * 4 * kAtoms; }

  int n_panels_;
  int n_quads_;
  float rounding_ = 0;
  std::vector<float> weights_;
  std::vector<float> inverse_weights_;
  hwy::AlignedFreeUniquePtr<uint8_t[]> data_;
};

// A vector in 8 bits: what its sums start from and how they become 16-bit scores.
struct ByteVector {
  int32_t start = 0;  // takes back the 128 of every component, and rounds the shift
  int32_t shift = 0;  // score = sum >> shift
  float scale = 0;    // score of a product of 1
  float error = 0;    // of a score
};

// Sets components [4 * n_quads]. r [4 * n_quads], zero-padded, finite, not 0.
ByteVector QuantizeToBytes(const BytePanels& panels, const float* r, int8_t* components);

// Rows that a unit may read at a time: arrays of components end at a whole number of them.
inline constexpr int kByteRows = 16;

// Products of vectors with all atoms.
struct ByteProducts {
  const BytePanels& panels;
  const int8_t* components;   // [n_vectors rounded up to kByteRows, 4 * n_quads]
  const ByteVector* vectors;  // [n_vectors]
  int n_vectors;
  // In the form of Scores (omp_scores.h): vector i is number i of the `interleaved`.
  int16_t* values;
  int16_t* maxima;
  int interleaved;
};

// REQUIRES: the unit is panels.unit() or kVnni
void ProjectBytes(ByteUnit unit, const ByteProducts& products);

// Of ProjectBytes, for whole batches of vectors that leave L1 room for a panel.
inline constexpr int kVnniVectorsMax = 48;
inline constexpr int kAmxVectorsMax = 32;
void ProjectBytesVnni(const ByteProducts& products);  // omp_bytes_avx512.cc
void ProjectBytesAmx(const ByteProducts& products);   // omp_bytes_amx.cc

}  // namespace lexico::kernels::cpu

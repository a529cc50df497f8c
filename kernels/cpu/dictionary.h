// The CPU's form of a dictionary: FP32 rows, 64-byte aligned and zero-padded, and the same rows
// packed in panels of atoms for products of many atoms with one vector.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/api/dictionary.h"

namespace lexico::kernels::cpu {

// Atoms of one panel. 32 floats are two cache lines and a multiple of every vector width in use
// (4 on SSE2 .. 16 on AVX-512), so no kernel needs a remainder loop over atoms.
inline constexpr int kPanelAtoms = 32;

class Dictionary final : public PreparedDictionary {
 public:
  // `rows` [n_atoms, head_dim], unit rows; copied.
  Dictionary(const float* rows, int n_atoms, int head_dim);
  ~Dictionary() override;
  Dictionary(const Dictionary&) = delete;
  Dictionary& operator=(const Dictionary&) = delete;

  size_t bytes() const override;

  // Row a at rows() + a * row_stride(); the places from head_dim to row_stride are 0.
  const float* rows() const { return rows_; }
  const float* row(int atom) const { return rows_ + static_cast<size_t>(atom) * row_stride_; }
  int row_stride() const { return row_stride_; }

  // [n_panels, head_dim, kPanelAtoms]: element (p, i, j) is component i of atom p * kPanelAtoms +
  // j; atoms past n_atoms are 0.
  const float* panels() const { return panels_; }
  int n_panels() const { return n_panels_; }

 private:
  int row_stride_;
  int n_panels_;
  float* rows_;
  float* panels_;
};

absl::StatusOr<std::shared_ptr<const PreparedDictionary>> PrepareDictionary(TensorView dictionary);

// The CPU form behind the interface; CHECK-fails for a dictionary that another device prepared.
const Dictionary& AsCpu(const PreparedDictionary& dictionary);

}  // namespace lexico::kernels::cpu

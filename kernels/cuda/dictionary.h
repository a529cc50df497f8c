// A dictionary on the GPU: F32 rows, padded with zeros to whole float4, from which everything is
// computed that is stored; and F16 rows for the search of OmpEncode. 2 + 1 MiB at 4096 x 128, which
// stay in L2 while an op reads them many times.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/api/device_buffer.h"
#include "kernels/api/dictionary.h"

namespace lexico::kernels::cuda {

// The search goes through the atoms in this many ranges, each of whole stages of this many atoms
// (omp_search.cuh).
inline constexpr int kSearchRanges = 8;
inline constexpr int kSearchStageAtoms = 64;

class Dictionary final : public PreparedDictionary {
 public:
  Dictionary(int n_atoms, int head_dim, DeviceBuffer rows, DeviceBuffer halves)
      : PreparedDictionary(n_atoms, head_dim), rows_(std::move(rows)), halves_(std::move(halves)) {}

  size_t bytes() const override { return rows_.bytes() + halves_.bytes(); }

  // On the device. Row a at rows() + a * row_stride(); 0 from head_dim on.
  const float* rows() const { return rows_.as<float>(); }
  int row_stride() const { return RowStride(head_dim()); }
  static int RowStride(int head_dim) { return (head_dim + 3) / 4 * 4; }

  // On the device: F16 [kSearchRanges * search_range_atoms(), search_dim()], 0 past the atoms.
  const uint16_t* halves() const { return halves_.as<uint16_t>(); }
  int search_dim() const { return SearchDim(head_dim()); }
  int search_range_atoms() const { return SearchRangeAtoms(n_atoms()); }
  // head_dim rounded up to what the search is compiled for: 64, 128 or 256.
  static int SearchDim(int head_dim) { return head_dim <= 64 ? 64 : head_dim <= 128 ? 128 : 256; }
  static int SearchRangeAtoms(int n_atoms) {
    constexpr int kUnit = kSearchRanges * kSearchStageAtoms;
    return (n_atoms + kUnit - 1) / kUnit * kSearchStageAtoms;
  }

 private:
  DeviceBuffer rows_;
  DeviceBuffer halves_;
};

// As kernels/api/dictionary.h; ResourceExhausted where the device has too little memory.
absl::StatusOr<std::shared_ptr<const PreparedDictionary>> PrepareDictionary(TensorView dictionary,
                                                                            const Stream& stream);

// The GPU's form behind the interface; CHECK-fails for a dictionary that another device prepared.
const Dictionary& AsCuda(const PreparedDictionary& dictionary);

}  // namespace lexico::kernels::cuda

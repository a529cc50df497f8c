// A dictionary on the GPU: F32 rows, padded with zeros to whole float4, from which everything is
// computed that is stored; F16 rows for the search of OmpEncode; and, of an F16 file, its rows
// unchanged for the least squares. 2 + 1 + 1 MiB at 4096 x 128, which stay in L2 while an op reads
// them many times.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/api/device_buffer.h"
#include "kernels/api/dictionary.h"

namespace lexico::kernels::cuda {

class Dictionary final : public PreparedDictionary {
 public:
  Dictionary(int n_atoms, int head_dim, DeviceBuffer rows, DeviceBuffer halves, DeviceBuffer packed,
             DeviceBuffer norms)
      : PreparedDictionary(n_atoms, head_dim),
        rows_(std::move(rows)),
        halves_(std::move(halves)),
        packed_(std::move(packed)),
        norms_(std::move(norms)) {}

  size_t bytes() const override {
    return rows_.bytes() + halves_.bytes() + packed_.bytes() + norms_.bytes();
  }

  // On the device. Row a at rows() + a * row_stride(); 0 from head_dim on.
  const float* rows() const { return rows_.as<float>(); }
  int row_stride() const { return RowStride(head_dim()); }
  static int RowStride(int head_dim) { return (head_dim + 3) / 4 * 4; }

  // On the device: F16 [search_tiles()] tiles of SearchTileAtoms(search_dim()) atoms, 0 past them.
  // Within a tile [search_dim() / 64][atoms][64], chunks of 8 components swizzled:
  // omp_multiply.cuh.
  const uint16_t* halves() const { return halves_.as<uint16_t>(); }
  // On the device: rows of F16 as they came, [n_atoms, PackedStride()], 0 from head_dim on; null
  // where they came in F32.
  const uint16_t* packed() const { return packed_.bytes() == 0 ? nullptr : packed_.as<uint16_t>(); }
  static int PackedStride(int head_dim) { return (head_dim + 127) / 128 * 128; }
  // On the device, [n_atoms]: norms of the packed rows; 1 where there are none.
  const float* norms() const { return norms_.as<float>(); }
  int search_dim() const { return SearchDim(head_dim()); }
  int search_tiles() const { return SearchTiles(n_atoms(), search_dim()); }
  // head_dim rounded up to what the search is compiled for: 64, 128 or 256.
  static int SearchDim(int head_dim) { return head_dim <= 64 ? 64 : head_dim <= 128 ? 128 : 256; }
  // 16 or 32 KiB, three of which fit the shared memory of every card.
  static constexpr int SearchTileAtoms(int search_dim) { return search_dim > 128 ? 64 : 128; }
  static int SearchTiles(int n_atoms, int search_dim) {
    const int tile = SearchTileAtoms(search_dim);
    return (n_atoms + tile - 1) / tile;
  }

 private:
  DeviceBuffer rows_;
  DeviceBuffer halves_;
  DeviceBuffer packed_;  // empty: the rows came in F32
  DeviceBuffer norms_;
};

// As kernels/api/dictionary.h; ResourceExhausted where the device has too little memory.
absl::StatusOr<std::shared_ptr<const PreparedDictionary>> PrepareDictionary(TensorView dictionary,
                                                                            const Stream& stream);

absl::StatusOr<std::shared_ptr<const PreparedDictionary>> PrepareRows(
    TensorView rows, const Stream& stream, std::shared_ptr<const PreparedDictionary> old);

// The GPU's form behind the interface; CHECK-fails for a dictionary that another device prepared.
const Dictionary& AsCuda(const PreparedDictionary& dictionary);

}  // namespace lexico::kernels::cuda

#include "kernels/cuda/dictionary.h"

#include <cuda_fp16.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/api/unit_atoms.h"
#include "kernels/cuda/dictionary_rows.h"
#include "kernels/cuda/search_tile.h"
#include "proto/base/check.h"

namespace lexico::kernels::cuda {
namespace {

absl::StatusOr<DeviceBuffer> Upload(const void* data, size_t bytes, const Stream& stream) {
  absl::StatusOr<DeviceBuffer> buffer = DeviceBuffer::Allocate(bytes, stream);
  if (buffer.ok()) buffer->CopyFrom(data, bytes);
  return buffer;
}

// The atoms in F16, to nearest, as tiles: Dictionary::halves().
std::vector<__half> Tiles(const UnitAtoms& atoms) {
  const int dim = Dictionary::SearchDim(atoms.head_dim);
  const int tile_atoms = Dictionary::SearchTileAtoms(dim);
  const int n_tiles = Dictionary::SearchTiles(atoms.n_atoms, dim);
  std::vector<__half> tiles(static_cast<size_t>(n_tiles) * tile_atoms * dim, __half(0.0f));
  for (int a = 0; a < atoms.n_atoms; ++a) {
    __half* tile = tiles.data() + static_cast<size_t>(a / tile_atoms) * tile_atoms * dim;
    const int row = a % tile_atoms;
    for (int i = 0; i < atoms.head_dim; ++i) {
      tile[PlaceInTile(tile_atoms, row, i)] =
          __float2half_rn(atoms.rows[static_cast<size_t>(a) * atoms.head_dim + i]);
    }
  }
  return tiles;
}

// Rows of F16 [n_atoms, head_dim], padded with zeros.
std::vector<uint16_t> Packed(const TensorView& rows) {
  const int64_t head_dim = rows.dim(1);
  const int64_t stride = Dictionary::PackedStride(static_cast<int>(head_dim));
  std::vector<uint16_t> packed(rows.dim(0) * stride, 0);
  for (int64_t a = 0; a < rows.dim(0); ++a) {
    std::copy_n(rows.as<uint16_t>() + a * head_dim, head_dim, packed.begin() + a * stride);
  }
  return packed;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const PreparedDictionary>> PrepareDictionary(TensorView dictionary,
                                                                            const Stream& stream) {
  const absl::StatusOr<UnitAtoms> atoms = ReadUnitAtoms(dictionary);
  if (!atoms.ok()) return atoms.status();
  const size_t stride = Dictionary::RowStride(atoms->head_dim);
  std::vector<float> rows(atoms->n_atoms * stride, 0.0f);
  for (int a = 0; a < atoms->n_atoms; ++a) {
    std::memcpy(rows.data() + a * stride,
                atoms->rows.data() + static_cast<size_t>(a) * atoms->head_dim,
                atoms->head_dim * sizeof(float));
  }
  absl::StatusOr<DeviceBuffer> buffer = Upload(rows.data(), rows.size() * sizeof(float), stream);
  if (!buffer.ok()) return buffer.status();
  const std::vector<__half> halves = Tiles(*atoms);
  absl::StatusOr<DeviceBuffer> half_buffer =
      Upload(halves.data(), halves.size() * sizeof(__half), stream);
  if (!half_buffer.ok()) return half_buffer.status();
  const bool packed = dictionary.dtype == DType::kF16;
  DeviceBuffer packed_buffer;
  if (packed) {
    const std::vector<uint16_t> values = Packed(dictionary);
    absl::StatusOr<DeviceBuffer> uploaded =
        Upload(values.data(), values.size() * sizeof(uint16_t), stream);
    if (!uploaded.ok()) return uploaded.status();
    packed_buffer = *std::move(uploaded);
  }
  std::vector<float> norms(atoms->n_atoms, 1.0f);
  if (packed) std::copy(atoms->norms.begin(), atoms->norms.end(), norms.begin());
  absl::StatusOr<DeviceBuffer> norm_buffer =
      Upload(norms.data(), norms.size() * sizeof(float), stream);
  if (!norm_buffer.ok()) return norm_buffer.status();
  return std::make_shared<const Dictionary>(atoms->n_atoms, atoms->head_dim, *std::move(buffer),
                                            *std::move(half_buffer), std::move(packed_buffer),
                                            *std::move(norm_buffer));
}

namespace {

// With memory of the forms of F16 rows, and nothing in it.
absl::StatusOr<std::shared_ptr<const Dictionary>> NewDictionary(int n_atoms, int head_dim,
                                                                const Stream& stream) {
  const auto atoms = static_cast<size_t>(n_atoms);
  const int search_dim = Dictionary::SearchDim(head_dim);
  const size_t tile_bytes = size_t{2} * Dictionary::SearchTileAtoms(search_dim) * search_dim;
  const size_t bytes[] = {atoms * Dictionary::RowStride(head_dim) * sizeof(float),
                          Dictionary::SearchTiles(n_atoms, search_dim) * tile_bytes,
                          2 * atoms * Dictionary::PackedStride(head_dim), atoms * sizeof(float)};
  DeviceBuffer buffers[4];
  for (int i = 0; i < 4; ++i) {
    absl::StatusOr<DeviceBuffer> buffer = DeviceBuffer::Allocate(bytes[i], stream);
    if (!buffer.ok()) return buffer.status();
    buffers[i] = *std::move(buffer);
  }
  return std::make_shared<const Dictionary>(n_atoms, head_dim, std::move(buffers[0]),
                                            std::move(buffers[1]), std::move(buffers[2]),
                                            std::move(buffers[3]));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const PreparedDictionary>> PrepareRows(
    TensorView rows, const Stream& stream, std::shared_ptr<const PreparedDictionary> old) {
  const int n_atoms = static_cast<int>(rows.dim(0));
  const int head_dim = static_cast<int>(rows.dim(1));
  auto dictionary = std::dynamic_pointer_cast<const Dictionary>(std::move(old));
  if (dictionary == nullptr || dictionary.use_count() > 1 || dictionary->n_atoms() != n_atoms ||
      dictionary->head_dim() != head_dim || dictionary->packed() == nullptr) {
    auto made = NewDictionary(n_atoms, head_dim, stream);
    if (!made.ok()) return made.status();
    dictionary = *std::move(made);
  }
  // Nobody else reads them: they are written over.
  const DictionaryForms forms = {
      .rows = const_cast<float*>(dictionary->rows()),
      .halves = const_cast<uint16_t*>(dictionary->halves()),
      .packed = const_cast<uint16_t*>(dictionary->packed()),
      .norms = const_cast<float*>(dictionary->norms()),
      .n_atoms = n_atoms,
      .head_dim = head_dim,
      .row_stride = dictionary->row_stride(),
      .packed_stride = Dictionary::PackedStride(head_dim),
      .search_dim = dictionary->search_dim(),
      .tile_atoms = Dictionary::SearchTileAtoms(dictionary->search_dim()),
      .n_tiles = dictionary->search_tiles()};
  WriteForms(GpuOf(stream), rows.as<float>(), forms);
  return dictionary;
}

const Dictionary& AsCuda(const PreparedDictionary& dictionary) {
  const auto* cuda = dynamic_cast<const Dictionary*>(&dictionary);
  LEXICO_CHECK(cuda != nullptr);
  return *cuda;
}

}  // namespace lexico::kernels::cuda

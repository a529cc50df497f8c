#include "kernels/cuda/dictionary.h"

#include <cuda_fp16.h>

#include <cstring>
#include <utility>
#include <vector>

#include "kernels/api/unit_atoms.h"
#include "proto/base/check.h"

namespace lexico::kernels::cuda {
namespace {

absl::StatusOr<DeviceBuffer> Upload(const void* data, size_t bytes, const Stream& stream) {
  absl::StatusOr<DeviceBuffer> buffer = DeviceBuffer::Allocate(bytes, stream);
  if (buffer.ok()) buffer->CopyFrom(data, bytes);
  return buffer;
}

// Rows of `dim` F16 numbers, nearest to those of the atoms; [n_rows, dim], 0 elsewhere.
std::vector<__half> Halves(const UnitAtoms& atoms, int n_rows, int dim) {
  std::vector<__half> halves(static_cast<size_t>(n_rows) * dim, __half(0.0f));
  for (int a = 0; a < atoms.n_atoms; ++a) {
    for (int i = 0; i < atoms.head_dim; ++i) {
      halves[static_cast<size_t>(a) * dim + i] =
          __float2half_rn(atoms.rows[static_cast<size_t>(a) * atoms.head_dim + i]);
    }
  }
  return halves;
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
  const std::vector<__half> halves =
      Halves(*atoms, kSearchRanges * Dictionary::SearchRangeAtoms(atoms->n_atoms),
             Dictionary::SearchDim(atoms->head_dim));
  absl::StatusOr<DeviceBuffer> half_buffer =
      Upload(halves.data(), halves.size() * sizeof(__half), stream);
  if (!half_buffer.ok()) return half_buffer.status();
  return std::make_shared<const Dictionary>(atoms->n_atoms, atoms->head_dim, *std::move(buffer),
                                            *std::move(half_buffer));
}

const Dictionary& AsCuda(const PreparedDictionary& dictionary) {
  const auto* cuda = dynamic_cast<const Dictionary*>(&dictionary);
  LEXICO_CHECK(cuda != nullptr);
  return *cuda;
}

}  // namespace lexico::kernels::cuda

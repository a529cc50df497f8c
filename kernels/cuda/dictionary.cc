#include "kernels/cuda/dictionary.h"

#include <cstring>
#include <utility>
#include <vector>

#include "kernels/api/unit_atoms.h"
#include "proto/base/check.h"

namespace lexico::kernels::cuda {

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
  absl::StatusOr<DeviceBuffer> buffer = DeviceBuffer::Allocate(rows.size() * sizeof(float), stream);
  if (!buffer.ok()) return buffer.status();
  buffer->CopyFrom(rows.data(), buffer->bytes());
  return std::make_shared<const Dictionary>(atoms->n_atoms, atoms->head_dim, *std::move(buffer));
}

const Dictionary& AsCuda(const PreparedDictionary& dictionary) {
  const auto* cuda = dynamic_cast<const Dictionary*>(&dictionary);
  LEXICO_CHECK(cuda != nullptr);
  return *cuda;
}

}  // namespace lexico::kernels::cuda

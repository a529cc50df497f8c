#include "kernels/cpu/attention_atoms.h"

#include <cstring>

#include "proto/base/check.h"

namespace lexico::kernels::cpu {
namespace {

template <typename Element>
void Arrange(const Element* atoms, int n_atoms, int head_dim, int row_stride, Element* panels,
             Element* rows) {
  for (int a = 0; a < n_atoms; ++a) {
    const Element* from = atoms + static_cast<size_t>(a) * head_dim;
    std::memcpy(rows + static_cast<size_t>(a) * row_stride, from, head_dim * sizeof(Element));
    Element* to = panels + static_cast<size_t>(a / kPanelAtoms) * kPanelAtoms * head_dim;
    for (int i = 0; i < head_dim; ++i) to[i * kPanelAtoms + a % kPanelAtoms] = from[i];
  }
}

hwy::AlignedFreeUniquePtr<uint8_t[]> NewZeroBytes(size_t n) {
  auto bytes = hwy::AllocateAligned<uint8_t>(n);
  std::memset(bytes.get(), 0, n);
  return bytes;
}

}  // namespace

AttentionAtoms::AttentionAtoms(TensorView atoms, std::span<const double> norms)
    : n_atoms_(static_cast<int>(atoms.dim(0))),
      head_dim_(static_cast<int>(atoms.dim(1))),
      row_stride_((head_dim_ + 31) / 32 * 32),
      padded_atoms_((n_atoms_ + kPanelAtoms - 1) / kPanelAtoms * kPanelAtoms),
      dtype_(atoms.dtype),
      panels_(NewZeroBytes(DTypeBytes(dtype_) * padded_atoms_ * head_dim_)),
      rows_(NewZeroBytes(DTypeBytes(dtype_) * n_atoms_ * row_stride_)),
      inverse_norms_(hwy::AllocateAligned<float>(padded_atoms_)) {
  LEXICO_CHECK_EQ(norms.size(), static_cast<size_t>(n_atoms_));
  if (dtype_ == DType::kF16) {
    Arrange(atoms.as<uint16_t>(), n_atoms_, head_dim_, row_stride_,
            reinterpret_cast<uint16_t*>(panels_.get()), reinterpret_cast<uint16_t*>(rows_.get()));
  } else {
    Arrange(atoms.as<float>(), n_atoms_, head_dim_, row_stride_,
            reinterpret_cast<float*>(panels_.get()), reinterpret_cast<float*>(rows_.get()));
  }
  for (int a = 0; a < padded_atoms_; ++a) {
    inverse_norms_[a] = a < n_atoms_ ? static_cast<float>(1 / norms[a]) : 0.0f;
  }
}

size_t AttentionAtoms::bytes() const {
  return DTypeBytes(dtype_) * (static_cast<size_t>(padded_atoms_) * head_dim_ +
                               static_cast<size_t>(n_atoms_) * row_stride_) +
         padded_atoms_ * sizeof(float);
}

}  // namespace lexico::kernels::cpu

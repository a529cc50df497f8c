#include "kernels/api/unit_atoms.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstdint>

#include "proto/base/limits.h"

namespace lexico::kernels {
namespace {

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 0x1f;
  const uint32_t mantissa = half & 0x3ff;
  if (exponent == 0) {  // 0 and subnormals: mantissa * 2^-24
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide = exponent == 0x1f ? 0xffu : exponent + 112;
  return std::bit_cast<float>(sign | (wide << 23) | (mantissa << 13));
}

float Element(const TensorView& view, int64_t i) {
  return view.dtype == DType::kF16 ? HalfToFloat(view.as<uint16_t>()[i]) : view.as<float>()[i];
}

absl::Status ValidateShape(const TensorView& view) {
  if (view.rank != 2) {
    return absl::InvalidArgumentError(
        fmt::format("dictionary has rank {}, not 2 [n_atoms, head_dim]", view.rank));
  }
  if (view.dtype != DType::kF16 && view.dtype != DType::kF32) {
    return absl::InvalidArgumentError(
        fmt::format("dictionary has type {}; F16 or F32 are supported", DTypeName(view.dtype)));
  }
  const int64_t n_atoms = view.dim(0);
  const int64_t head_dim = view.dim(1);
  if (n_atoms < base::kAtomsMin || n_atoms > base::kAtomsMax) {
    return absl::InvalidArgumentError(fmt::format("dictionary has {} atoms; {} to {} are supported",
                                                  n_atoms, base::kAtomsMin, base::kAtomsMax));
  }
  if (head_dim < 1 || head_dim > base::kHeadDimMax) {
    return absl::InvalidArgumentError(fmt::format(
        "dictionary has head_dim {}; 1 to {} are supported", head_dim, base::kHeadDimMax));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<UnitAtoms> ReadUnitAtoms(const TensorView& dictionary) {
  if (absl::Status status = ValidateShape(dictionary); !status.ok()) return status;
  UnitAtoms atoms;
  atoms.n_atoms = static_cast<int>(dictionary.dim(0));
  atoms.head_dim = static_cast<int>(dictionary.dim(1));
  atoms.rows.resize(static_cast<size_t>(atoms.n_atoms) * atoms.head_dim);
  atoms.norms.resize(atoms.n_atoms);
  for (int a = 0; a < atoms.n_atoms; ++a) {
    float* row = atoms.rows.data() + static_cast<size_t>(a) * atoms.head_dim;
    double squares = 0;
    for (int i = 0; i < atoms.head_dim; ++i) {
      row[i] = Element(dictionary, static_cast<int64_t>(a) * atoms.head_dim + i);
      if (!std::isfinite(row[i])) {
        return absl::InvalidArgumentError(
            fmt::format("dictionary atom {} component {} is {}, not finite", a, i, row[i]));
      }
      squares += static_cast<double>(row[i]) * row[i];
    }
    const double norm = std::sqrt(squares);
    atoms.norms[a] = norm;
    if (!(std::abs(norm - 1) <= 0.01)) {
      return absl::InvalidArgumentError(fmt::format(
          "dictionary atom {} has norm {:.6g}; atoms must have norm 1 within 1 %", a, norm));
    }
    for (int i = 0; i < atoms.head_dim; ++i) row[i] = static_cast<float>(row[i] / norm);
  }
  return atoms;
}

}  // namespace lexico::kernels

// One vector's code, in a warp, by the formulas of kernels/api/quantize_codes.h in double, so that
// it differs from the definition's (kernels/cpu/vector_code_definition.cc) in the order of sums
// over a vector's numbers alone. Lane l holds numbers l, l + 32, ... and places l and l + 32 of
// the pursuit.
#pragma once

#include <cuda_fp8.h>

#include <cmath>

#include "kernels/api/residual.h"
#include "kernels/cuda/codes.cuh"
#include "kernels/cuda/family_codes.cuh"
#include "kernels/cuda/hadamard.cuh"
#include "kernels/cuda/warp.cuh"
#include "proto/base/limits.h"

namespace lexico::kernels::cuda {

// The levels, in double, as a kernel's argument.
struct LevelSteps {
  int bits;
  double magnitudes[kLevelTermsMax];
  double middles[kLevelTermsMax];  // between a magnitude and the next; the last one's is infinite

  explicit LevelSteps(int residual_bits) : bits(residual_bits), magnitudes{}, middles{} {
    if (bits == 0) return;
    const ResidualLevels levels = LevelsOf(bits);
    for (int i = 0; i < kLevelTermsMax; ++i) {
      const bool last = i + 1 >= levels.n_magnitudes;
      magnitudes[i] = i < levels.n_magnitudes ? levels.magnitudes[i] : 0;
      middles[i] = last ? INFINITY : (levels.magnitudes[i] + levels.magnitudes[i + 1]) / 2;
    }
  }
};

// A scale as it is stored.
__device__ inline uint16_t ScaleBits(double value) {
  constexpr double kHalfMax = 65504;
  return __half_as_ushort(
      __float2half_rn(static_cast<float>(fmin(fmax(value, -kHalfMax), kHalfMax))));
}

template <int kParts>
struct VectorParts {
  double v[kParts];

  __device__ double Dot(const VectorParts& other) const {
    double sum = 0;
#pragma unroll
    for (int part = 0; part < kParts; ++part) sum += v[part] * other.v[part];
    return WarpSum(sum);
  }
};

// The places of a vector that a lane has: l and l + 32.
inline constexpr int kPlacesOfLane = base::kSparsityMax / kWarp;
template <typename T>
struct PlacesOfLane {
  T v[kPlacesOfLane];

  // Place j, to all lanes together.
  __device__ T At(int j) const {
    T of_rest = 0;
#pragma unroll
    for (int k = 0; k < kPlacesOfLane; ++k) {
      const T value = __shfl_sync(kAllLanes, v[k], j % kWarp);
      if (j / kWarp == k) of_rest = value;
    }
    return of_rest;
  }
};

// The dictionary's rows of norm 1.
struct AtomRows {
  const float* rows;
  int row_stride;
  int head_dim;

  // sum += c * row
  template <int kParts>
  __device__ void Add(double c, uint32_t atom, VectorParts<kParts>& sum) const {
    const float* row = rows + static_cast<int64_t>(atom) * row_stride;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int i = NumberOfLane(part);
      if (i < head_dim) sum.v[part] += c * row[i];
    }
  }
};

// Atoms with their coefficients as stored.
struct QuantizedAtoms {
  PlacesOfLane<uint32_t> index;
  PlacesOfLane<uint32_t> code;  // the atoms array's word where packed, else the coefficient's byte
  PlacesOfLane<float> number;   // what the coefficient is, without the scale
  uint16_t scale = 0;           // packed
};

// <x, x> / <x, x^>, at least 1 and at most 1.5.
template <int kParts>
__device__ double Unshrink(const VectorParts<kParts>& x, const VectorParts<kParts>& approximation) {
  const double product = x.Dot(approximation);
  return product > 0 ? fmin(fmax(x.Dot(x) / product, 1.0), 1.5) : 1.0;
}

template <int kParts>
__device__ VectorParts<kParts> SumOfAtoms(const AtomRows& rows, int sparsity,
                                          const PlacesOfLane<uint32_t>& index,
                                          const PlacesOfLane<float>& number, double scale) {
  VectorParts<kParts> sum = {};
  for (int j = 0; j < sparsity; ++j) {
    const double c = scale * number.At(j);
    const uint32_t atom = index.At(j);
    if (c != 0) rows.Add(c, atom, sum);
  }
  return sum;
}

// The first coefficient of largest magnitude.
__device__ inline float LargestCoefficient(const PlacesOfLane<float>& c) {
  float largest = 0;
#pragma unroll
  for (int k = 0; k < kPlacesOfLane; ++k) largest = fmaxf(largest, fabsf(c.v[k]));
  largest = WarpMax(largest);
  float first = 0;
#pragma unroll
  for (int k = kPlacesOfLane - 1; k >= 0; --k) {
    const uint32_t lanes = __ballot_sync(kAllLanes, fabsf(c.v[k]) == largest);
    const float value = __shfl_sync(kAllLanes, c.v[k], lanes == 0 ? 0 : __ffs(lanes) - 1);
    if (lanes != 0) first = value;
  }
  return largest == 0 ? 0 : first;
}

// 4 bits and a scale. `coefficients` past the vector's places are 0.
__device__ inline void PackCoefficients(const PlacesOfLane<float>& coefficients,
                                        QuantizedAtoms& atoms) {
  atoms.scale = ScaleBits(static_cast<double>(LargestCoefficient(coefficients)) / -8);
  const double scale = HalfToFloat(atoms.scale);
#pragma unroll
  for (int k = 0; k < kPlacesOfLane; ++k) {
    const double number = scale == 0 ? 0 : rint(coefficients.v[k] / scale);
    const int clamped = static_cast<int>(fmin(fmax(number, -8.0), 7.0));
    // A place that adds nothing is the same whatever atom it had.
    if (clamped == 0) atoms.index.v[k] = 0;
    atoms.code.v[k] = clamped == 0 ? 0 : atoms.index.v[k] << 4 | (clamped & 15);
    atoms.number.v[k] = static_cast<float>(clamped);
  }
}

__device__ inline void RoundCoefficients(const PlacesOfLane<float>& coefficients, double factor,
                                         QuantizedAtoms& atoms) {
#pragma unroll
  for (int k = 0; k < kPlacesOfLane; ++k) {
    atoms.code.v[k] = __nv_cvt_float_to_fp8(static_cast<float>(coefficients.v[k] * factor),
                                            __NV_SATFINITE, __NV_E4M3);
    atoms.number.v[k] = E4m3PairToFloat(atoms.code.v[k]).x;
  }
}

// atoms.index is set. Returns x less what the atoms as stored are together.
template <int kParts>
__device__ VectorParts<kParts> QuantizeAtoms(const AtomRows& rows, int sparsity, bool packed,
                                             bool unshrink, const VectorParts<kParts>& x,
                                             const PlacesOfLane<float>& coefficients,
                                             QuantizedAtoms& atoms) {
  VectorParts<kParts> sum;
  if (packed) {
    PackCoefficients(coefficients, atoms);
    sum = SumOfAtoms<kParts>(rows, sparsity, atoms.index, atoms.number, HalfToFloat(atoms.scale));
    if (unshrink) {
      const double before = HalfToFloat(atoms.scale);
      atoms.scale = ScaleBits(before * Unshrink(x, sum));
      const double larger = before == 0 ? 0 : HalfToFloat(atoms.scale) / before;
#pragma unroll
      for (int part = 0; part < kParts; ++part) sum.v[part] *= larger;
    }
  } else {
    double factor = 1;
    if (unshrink) {
      factor = Unshrink(x, SumOfAtoms<kParts>(rows, sparsity, atoms.index, coefficients, 1.0));
    }
    RoundCoefficients(coefficients, factor, atoms);
    sum = SumOfAtoms<kParts>(rows, sparsity, atoms.index, atoms.number, 1.0);
  }
  VectorParts<kParts> rest;
#pragma unroll
  for (int part = 0; part < kParts; ++part) rest.v[part] = x.v[part] - sum.v[part];
  return rest;
}

// Bit l of planes[p][part]: number part * 32 + l.
template <int kParts>
struct QuantizedResidual {
  uint32_t planes[base::kResidualBitsMax][kParts] = {};
  uint16_t scale = 0;
};

// Rotates `rest`, rounds it, and leaves there what rounding left, still rotated.
template <int kParts>
__device__ QuantizedResidual<kParts> QuantizeResidual(const LevelSteps& steps, bool unbiased,
                                                      int head_dim, VectorParts<kParts>& rest) {
  QuantizedResidual<kParts> code;
  WarpRotate(rest.v, head_dim);
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    if (NumberOfLane(part) >= head_dim) rest.v[part] = 0;
  }
  const double squares = rest.Dot(rest);
  if (squares == 0) return code;
  const double norm = sqrt(squares / head_dim);
  double product = 0;
  double level_squares = 0;
  double level[kParts];
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    const bool real = NumberOfLane(part) < head_dim;
    const double size = fabs(rest.v[part]);
    int rank = 0;
#pragma unroll
    for (int i = 0; i + 1 < kLevelTermsMax; ++i) {
      if (rank == i && size / norm > steps.middles[i]) ++rank;
    }
    const double magnitude = rank == 0   ? steps.magnitudes[0]
                             : rank == 1 ? steps.magnitudes[1]
                             : rank == 2 ? steps.magnitudes[2]
                                         : steps.magnitudes[3];
    const bool positive = rest.v[part] > 0;
    level[part] = positive ? magnitude : -magnitude;
    if (real) product += size * magnitude, level_squares += magnitude * magnitude;
#pragma unroll
    for (int p = 0; p < base::kResidualBitsMax; ++p) {
      const bool high = p < steps.bits && (rank >> (steps.bits - 1 - p) & 1) != 0;
      const bool bit = p == 0 ? positive : high == positive;
      code.planes[p][part] = __ballot_sync(kAllLanes, real && bit);
    }
  }
  product = WarpSum(product);
  level_squares = WarpSum(level_squares);
  code.scale = ScaleBits(unbiased ? squares / product : product / level_squares);
  const double scale = HalfToFloat(code.scale);
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    if (NumberOfLane(part) < head_dim) rest.v[part] -= scale * level[part];
  }
  return code;
}

}  // namespace lexico::kernels::cuda

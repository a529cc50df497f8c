// Highway 1.0.3 has no dot products of bytes, so these files are written with intrinsics and check
// the processor themselves.
#include "kernels/cpu/omp_bytes.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/bf16_tile.h"
#include "kernels/cpu/omp_scores.h"
#include "proto/base/check.h"

#if defined(__x86_64__)
#include <immintrin.h>
// GCC 12 takes the operand that its own unmasked intrinsics leave undefined for a mistake.
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace lexico::kernels::cpu {

BytePanels::BytePanels(const float* rows, int n_atoms, int row_stride, int padded_atoms)
    : n_panels_(padded_atoms / kAtoms),
      n_quads_(row_stride / 4),
      weights_(row_stride, 0.0f),
      inverse_weights_(row_stride),
      data_(hwy::AllocateAligned<uint8_t>(n_panels_ * panel_bytes())) {
  std::memset(data_.get(), 128, bytes());
  for (int a = 0; a < n_atoms; ++a) {
    for (int c = 0; c < row_stride; ++c) {
      weights_[c] = std::max(weights_[c], std::abs(rows[static_cast<size_t>(a) * row_stride + c]));
    }
  }
  // A component that no atom has would otherwise have the weight 0, and its rounding none to bound.
  const float least = 0.25f * *std::max_element(weights_.begin(), weights_.end());
  for (int c = 0; c < row_stride; ++c) {
    weights_[c] = std::max(weights_[c], least);
    inverse_weights_[c] = 1 / weights_[c];
  }
  for (int a = 0; a < n_atoms; ++a) {
    const float* row = rows + static_cast<size_t>(a) * row_stride;
    const int j = a % kAtoms;
    uint8_t* to =
        data_.get() + a / kAtoms * panel_bytes() + (j / 4 % 2 * 16 + j / 8 * 4 + j % 4) * size_t{4};
    double squares = 0;
    for (int c = 0; c < row_stride; ++c) {
      const auto rounded = static_cast<int>(std::lrint(127 * row[c] * inverse_weights_[c]));
      const double error = 127.0 * row[c] - static_cast<double>(weights_[c]) * rounded;
      squares += error * error;
      to[c / 4 * 4 * kAtoms + c % 4] = static_cast<uint8_t>(std::clamp(rounded, -127, 127) + 128);
    }
    rounding_ = std::max(rounding_, static_cast<float>(std::sqrt(squares)));
  }
}

void ProjectBytes(ByteUnit unit, const ByteProducts& products) {
  const auto project = unit == ByteUnit::kAmx ? ProjectBytesAmx : ProjectBytesVnni;
  const int most = unit == ByteUnit::kAmx ? kAmxVectorsMax : kVnniVectorsMax;
  for (int begin = 0; begin < products.n_vectors; begin += most) {
    ByteProducts some = products;
    some.components += static_cast<size_t>(begin) * products.panels.n_quads() * 4;
    some.vectors += begin;
    some.n_vectors = std::min(most, products.n_vectors - begin);
    some.values += static_cast<size_t>(begin) * kGroupAtoms;
    some.maxima += static_cast<size_t>(begin) * kGroupMaxima;
    project(some);
  }
}

#if defined(__x86_64__)

namespace {
ByteUnit FindByteUnit() {
  if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512vnni")) {
    return ByteUnit::kNone;
  }
  const bool amx =
      __builtin_cpu_supports("amx-int8") && FindBf16Tile(Bf16UnitKind::kAmx) != nullptr;
  return amx ? ByteUnit::kAmx : ByteUnit::kVnni;
}
}  // namespace

ByteUnit BestByteUnit() {
  static const ByteUnit unit = FindByteUnit();
  return unit;
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq"))) ByteVector QuantizeToBytes(
    const BytePanels& panels, const float* r, int8_t* components) {
  const int n = panels.n_quads() * 4;
  __m512 largest = _mm512_setzero_ps();
  for (int i = 0; i < n; i += 16) {
    const __m512 weighted =
        _mm512_mul_ps(_mm512_loadu_ps(r + i), _mm512_loadu_ps(panels.weights() + i));
    largest = _mm512_max_ps(largest, _mm512_abs_ps(weighted));
  }
  const float alpha = 127 / _mm512_reduce_max_ps(largest);
  __m512 error_squares = _mm512_setzero_ps();
  __m512 squares = _mm512_setzero_ps();
  __m512i sum = _mm512_setzero_si512();
  for (int i = 0; i < n; i += 16) {
    const __m512 inverse = _mm512_loadu_ps(panels.inverse_weights() + i);
    const __m512 factor =
        _mm512_mul_ps(_mm512_loadu_ps(panels.weights() + i), _mm512_set1_ps(alpha));
    const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(r + i), factor);
    const __m512i rounded = _mm512_cvtps_epi32(scaled);
    const __m512 whole = _mm512_cvtepi32_ps(rounded);
    const __m512 error = _mm512_mul_ps(_mm512_sub_ps(scaled, whole), inverse);
    const __m512 value = _mm512_mul_ps(whole, inverse);
    error_squares = _mm512_fmadd_ps(error, error, error_squares);
    squares = _mm512_fmadd_ps(value, value, squares);
    sum = _mm512_add_epi32(sum, rounded);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(components + i), _mm512_cvtepi32_epi8(rounded));
  }
  const float norm = std::sqrt(_mm512_reduce_add_ps(squares));
  // 1e-5: what FP32 may have lost in the norms and products above.
  const float sum_error = std::sqrt(_mm512_reduce_add_ps(error_squares)) * 127 +
                          norm * (panels.rounding() + 127 * 1e-5f);
  const float sum_max = norm * 127 + sum_error;
  ByteVector to;
  to.shift = std::max(0, std::ilogb(sum_max * (1 / 16000.0f)));
  const float unit = 1 / static_cast<float>(1 << to.shift);
  to.start = -128 * _mm512_reduce_add_epi32(sum) + (1 << to.shift) / 2;
  to.scale = 127 * alpha * unit;
  to.error = sum_error * unit + 1;
  return to;
}

#else

ByteUnit BestByteUnit() { return ByteUnit::kNone; }
ByteVector QuantizeToBytes(const BytePanels&, const float*, int8_t*) { LEXICO_UNREACHABLE(); }

#endif

}  // namespace lexico::kernels::cpu

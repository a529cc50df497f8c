// Highway 1.0.3 has no dot products of bytes, so this file is written with intrinsics and checks
// the processor itself.
#include "kernels/cpu/omp_bytes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "proto/base/check.h"
#include "proto/base/limits.h"

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

#if defined(__x86_64__)

#define LEXICO_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

bool HasByteDots() {
  return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}

LEXICO_VNNI void QuantizeToBytes(const BytePanels& panels, const float* r, ByteVector& to) {
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
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to.components + i), _mm512_cvtepi32_epi8(rounded));
  }
  const float norm = std::sqrt(_mm512_reduce_add_ps(squares));
  // 1e-5: what FP32 may have lost in the norms and products above.
  const float sum_error = std::sqrt(_mm512_reduce_add_ps(error_squares)) * 127 +
                          norm * (panels.rounding() + 127 * 1e-5f);
  const float sum_max = norm * 127 + sum_error;
  to.shift = std::max(0, std::ilogb(sum_max * (1 / 16000.0f)));
  const float unit = 1 / static_cast<float>(1 << to.shift);
  to.start = -128 * _mm512_reduce_add_epi32(sum) + (1 << to.shift) / 2;
  to.scale = 127 * alpha * unit;
  to.error = sum_error * unit + 1;
}

namespace {

// A tile is 12 vectors times the 32 atoms of a panel: 24 sums, 2 registers of atoms and the factors
// on their way are the 32 registers of AVX-512.
constexpr int kTileRows = 12;

// Scores of kRows vectors with one panel; largest [kRows] is raised to them, lane by lane. The
// vectors' components are in factors [n_quads, kRows].
template <int kRows>
LEXICO_VNNI void Tile(const uint8_t* panel, int n_quads, const int32_t* factors,
                      const ByteVector* vectors, int16_t* scores, size_t scores_stride,
                      __m512i* largest) {
  __m512i sum[kRows][2];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = _mm512_set1_epi32(vectors[r].start);
  for (int i = 0; i < n_quads; ++i) {
    const __m512i atoms0 = _mm512_load_si512(panel + i * 128);
    const __m512i atoms1 = _mm512_load_si512(panel + i * 128 + 64);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const __m512i factor = _mm512_set1_epi32(factors[i * kRows + r]);
      sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], atoms0, factor);
      sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], atoms1, factor);
      // Without this GCC 12 copies sums between registers and memory: a third of the speed.
      asm("" : "+v"(sum[r][0]), "+v"(sum[r][1]));
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
    const __m128i shift = _mm_cvtsi32_si128(vectors[r].shift);
    const __m512i score =
        _mm512_packs_epi32(_mm512_sra_epi32(sum[r][0], shift), _mm512_sra_epi32(sum[r][1], shift));
    _mm512_store_si512(scores + r * scores_stride, score);
    largest[r] = _mm512_max_epi16(largest[r], _mm512_abs_epi16(score));
  }
}

using TileFunction = void (*)(const uint8_t*, int, const int32_t*, const ByteVector*, int16_t*,
                              size_t, __m512i*);
constexpr TileFunction kTiles[kTileRows + 1] = {nullptr,  Tile<1>,  Tile<2>, Tile<3>, Tile<4>,
                                                Tile<5>,  Tile<6>,  Tile<7>, Tile<8>, Tile<9>,
                                                Tile<10>, Tile<11>, Tile<12>};

LEXICO_VNNI int LargestLane(__m512i v) {
  const __m512i odd = _mm512_srai_epi32(v, 16);
  const __m512i even = _mm512_srai_epi32(_mm512_slli_epi32(v, 16), 16);
  return _mm512_reduce_max_epi32(_mm512_max_epi32(odd, even));
}

// At most kVectorsMax vectors: a panel stays in L1 for all of them.
constexpr int kVectorsMax = 4 * kTileRows;

LEXICO_VNNI void ProjectSome(const BytePanels& panels, const ByteVector* vectors, int n_vectors,
                             int16_t* scores, size_t scores_stride, int* largest) {
  __m512i lanes[kVectorsMax];
  for (int r = 0; r < n_vectors; ++r) lanes[r] = _mm512_setzero_si512();
  const int n_quads = panels.n_quads();
  const int n_tiles = (n_vectors + kTileRows - 1) / kTileRows;
  const auto tile_begin = [&](int t) { return n_vectors * t / n_tiles; };
  int32_t factors[kVectorsMax * base::kHeadDimMax / 4];
  for (int t = 0; t < n_tiles; ++t) {
    const int begin = tile_begin(t);
    const int rows = tile_begin(t + 1) - begin;
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < n_quads; ++i) {
        std::memcpy(factors + begin * n_quads + i * rows + r, vectors[begin + r].components + 4 * i,
                    sizeof(int32_t));
      }
    }
  }
  for (int p = 0; p < panels.n_panels(); ++p) {
    for (int t = 0; t < n_tiles; ++t) {
      const int begin = tile_begin(t);
      kTiles[tile_begin(t + 1) - begin](
          panels.panel(p), n_quads, factors + begin * n_quads, vectors + begin,
          scores + begin * scores_stride + static_cast<size_t>(p) * BytePanels::kAtoms,
          scores_stride, lanes + begin);
    }
  }
  for (int r = 0; r < n_vectors; ++r) largest[r] = LargestLane(lanes[r]);
}

}  // namespace

void ProjectBytes(const BytePanels& panels, const ByteVector* vectors, int n_vectors,
                  int16_t* scores, size_t scores_stride, int* largest) {
  for (int begin = 0; begin < n_vectors; begin += kVectorsMax) {
    ProjectSome(panels, vectors + begin, std::min(kVectorsMax, n_vectors - begin),
                scores + begin * scores_stride, scores_stride, largest + begin);
  }
}

#else

bool HasByteDots() { return false; }
void QuantizeToBytes(const BytePanels&, const float*, ByteVector&) { LEXICO_UNREACHABLE(); }
void ProjectBytes(const BytePanels&, const ByteVector*, int, int16_t*, size_t, int*) {
  LEXICO_UNREACHABLE();
}

#endif

}  // namespace lexico::kernels::cpu

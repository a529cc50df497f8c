// bf16_tile.h by VDPBF16PS: 12 rows x 2 panels in 24 accumulators of the 32 registers.
//
// A step takes one pair of k: 2 vectors of b and 12 broadcasts of a feed 24 multiply-adds. With one
// panel a step would load 13 vectors for 12 multiply-adds, as many as two load ports deliver; so
// too if the compiler folded the broadcasts into the multiply-adds, hence the empty asm.
#include "kernels/cpu/bf16_tile.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

#define LEXICO_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

namespace lexico::kernels::cpu {
namespace {

constexpr int64_t kTileRows = 12;
constexpr int64_t kStripTiles = 2;  // tiles that share a pair of panels while it is in L1

// y [12, 32] of rows a and two panels of b.
template <bool kAccumulate>
LEXICO_AVX512_BF16 void MultiplyTile(const uint16_t* a, int64_t a_stride, const uint16_t* b,
                                     int64_t panel_stride, int64_t depth, float* y,
                                     int64_t y_stride) {
  __m512 sum[kTileRows][kBf16Panels];
#pragma GCC unroll 12
  for (int64_t r = 0; r < kTileRows; ++r)
#pragma GCC unroll 2
    for (int64_t p = 0; p < kBf16Panels; ++p)
      sum[r][p] =
          kAccumulate ? _mm512_loadu_ps(y + r * y_stride + p * kBf16Columns) : _mm512_setzero_ps();
  // Three rows that others are reached from by 1, 2 and 3 strides: 12 pointers would not fit in
  // the registers.
  const uint16_t* base[3] = {a, a + 4 * a_stride, a + 8 * a_stride};
  for (int64_t k = 0; k < depth; k += 2) {
    const auto b0 = (__m512bh)_mm512_load_si512(b);
    const auto b1 = (__m512bh)_mm512_load_si512(b + panel_stride);
    b += 2 * kBf16Columns;
#pragma GCC unroll 12
    for (int64_t r = 0; r < kTileRows; ++r) {
      int pair;
      std::memcpy(&pair, base[r / 4] + r % 4 * a_stride + k, sizeof(pair));
      __m512i both = _mm512_set1_epi32(pair);
      asm("" : "+v"(both));
      sum[r][0] = _mm512_dpbf16_ps(sum[r][0], (__m512bh)both, b0);
      sum[r][1] = _mm512_dpbf16_ps(sum[r][1], (__m512bh)both, b1);
    }
  }
#pragma GCC unroll 12
  for (int64_t r = 0; r < kTileRows; ++r)
#pragma GCC unroll 2
    for (int64_t p = 0; p < kBf16Panels; ++p)
      _mm512_storeu_ps(y + r * y_stride + p * kBf16Columns, sum[r][p]);
}

void Multiply(const Bf16Product& t) {
  const auto tile = t.accumulate ? MultiplyTile<true> : MultiplyTile<false>;
  for (int64_t panel = 0; panel < t.n_panels; panel += kBf16Panels)
    for (int64_t row = 0; row < kStripTiles * kTileRows; row += kTileRows)
      tile(t.a + row * t.a_stride, t.a_stride, t.b + panel * t.panel_stride, t.panel_stride,
           t.depth, t.y + row * t.y_stride + panel * kBf16Columns, t.y_stride);
}

constexpr Bf16Tile kTile = {.kind = Bf16UnitKind::kAvx512Bf16,
                            .rows = kStripTiles * kTileRows,
                            .begin = nullptr,
                            .end = nullptr,
                            .multiply = Multiply};

}  // namespace

const Bf16Tile* Bf16TileAvx512() { return &kTile; }

}  // namespace lexico::kernels::cpu

#else
namespace lexico::kernels::cpu {
const Bf16Tile* Bf16TileAvx512() { return nullptr; }
}  // namespace lexico::kernels::cpu
#endif

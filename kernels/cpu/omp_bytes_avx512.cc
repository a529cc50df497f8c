// omp_bytes.h by AVX-512 VNNI.
#include "kernels/cpu/omp_bytes.h"
#include "proto/base/check.h"

#if defined(__x86_64__)
#include <cstring>

#include "kernels/cpu/omp_bytes-inl.h"
#include "proto/base/limits.h"

#define LEXICO_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

namespace lexico::kernels::cpu {
namespace {

// A tile is 12 vectors times the 32 atoms of a panel: 24 sums, 2 registers of atoms and the factors
// on their way are the 32 registers of AVX-512.
constexpr int kTileRows = 12;

// Scores of kRows vectors, from `first` on, with panel p. The vectors' components are in factors
// [n_quads, kRows].
template <int kRows>
LEXICO_VNNI void Tile(const ByteProducts& t, int first, int p, const int32_t* factors) {
  const uint8_t* panel = t.panels.panel(p);
  const int n_quads = t.panels.n_quads();
  const ByteVector* vectors = t.vectors + first;
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
  const PanelScores to(t, p);
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
    const __m128i shift = _mm_cvtsi32_si128(vectors[r].shift);
    to.Store(first + r, _mm512_sra_epi32(sum[r][0], shift), _mm512_sra_epi32(sum[r][1], shift));
  }
}

using TileFunction = void (*)(const ByteProducts&, int, int, const int32_t*);
constexpr TileFunction kTiles[kTileRows + 1] = {nullptr,  Tile<1>,  Tile<2>, Tile<3>, Tile<4>,
                                                Tile<5>,  Tile<6>,  Tile<7>, Tile<8>, Tile<9>,
                                                Tile<10>, Tile<11>, Tile<12>};

}  // namespace

void ProjectBytesVnni(const ByteProducts& t) {
  const int n_quads = t.panels.n_quads();
  const int n_tiles = (t.n_vectors + kTileRows - 1) / kTileRows;
  const auto tile_begin = [&](int tile) { return t.n_vectors * tile / n_tiles; };
  int32_t factors[kVnniVectorsMax * base::kHeadDimMax / 4];
  for (int tile = 0; tile < n_tiles; ++tile) {
    const int begin = tile_begin(tile);
    const int rows = tile_begin(tile + 1) - begin;
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < n_quads; ++i) {
        std::memcpy(factors + begin * n_quads + i * rows + r,
                    t.components + (static_cast<size_t>(begin + r) * n_quads + i) * 4,
                    sizeof(int32_t));
      }
    }
  }
  for (int p = 0; p < t.panels.n_panels(); ++p) {
    for (int tile = 0; tile < n_tiles; ++tile) {
      const int begin = tile_begin(tile);
      kTiles[tile_begin(tile + 1) - begin](t, begin, p, factors + begin * n_quads);
    }
  }
}

}  // namespace lexico::kernels::cpu

#else
namespace lexico::kernels::cpu {
void ProjectBytesVnni(const ByteProducts&) { LEXICO_UNREACHABLE(); }
}  // namespace lexico::kernels::cpu
#endif

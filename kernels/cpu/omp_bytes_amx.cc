// omp_bytes.h by AMX, for vectors of 64 or 128 components: those of 32 vectors stay in 4 of the 8
// tiles, and a panel of 32 atoms takes 4 loads, 8 TDPBSUD of 16 cycles and 4 stores.
//
// The sums go through memory (4 KB, in L1) on their way to scores; those of a panel are read while
// the next panel is multiplied.
//
// Measured on 27 Nov 2026 on a shared Xeon with AMX, 32 vectors, 4096 x 128, one thread: 0.83 us a
// vector, VNNI 1.64; at another time 1.24 and 2.6. That is several times what TDPBSUD needs: loads,
// stores and the making of scores bound it. Tried and dropped: 2 x 2 tiles of sums, which load the
// vectors again for every panel and take any number of components (+ 10 %); asking for the next
// panel ahead (the same).
#include "kernels/cpu/bf16_tile.h"
#include "kernels/cpu/omp_bytes.h"
#include "proto/base/check.h"

#if defined(__x86_64__) && defined(__linux__)
#include "kernels/cpu/omp_bytes-inl.h"

#define LEXICO_AMX __attribute__((target("amx-tile,amx-int8")))

namespace lexico::kernels::cpu {
namespace {

constexpr int kTileQuads = 16;  // rows of a tile of atoms
constexpr int kTileSums = 16;

// Sums of up to 32 vectors with a panel.
struct alignas(64) Sums {
  int32_t rows[2 * kByteRows][BytePanels::kAtoms];
};
static_assert(kAmxVectorsMax == 2 * kByteRows);

// The first 64 components of the vectors to tiles 4 and, those after the first 16, 5; the other
// components to 6 and 7.
LEXICO_AMX void LoadVectors(const ByteProducts& t) {
  const int row_bytes = t.panels.n_quads() * 4;
  const int8_t* low = t.components;
  const int8_t* high = t.n_vectors > kByteRows ? low + kByteRows * row_bytes : low;
  const int half = t.panels.n_quads() > kTileQuads ? 4 * kTileQuads : 0;
  _tile_loadd(4, low, row_bytes);
  _tile_loadd(5, high, row_bytes);
  _tile_loadd(6, low + half, row_bytes);
  _tile_loadd(7, high + half, row_bytes);
}

// kTwice: more than 16 vectors; kDeep: more than 64 components.
template <bool kTwice, bool kDeep>
LEXICO_AMX void Multiply(const ByteProducts& t, int panel, Sums& sums) {
  constexpr int kPanelRow = 4 * BytePanels::kAtoms;
  constexpr int kSumsRow = sizeof(sums.rows[0]);
  const uint8_t* atoms = t.panels.panel(panel);
#pragma GCC unroll 2
  for (int side = 0; side < 2; ++side) {
    _tile_zero(0);
    if constexpr (kTwice) _tile_zero(1);
    _tile_loadd(2, atoms + side * kPanelRow / 2, kPanelRow);
    _tile_dpbsud(0, 4, 2);
    if constexpr (kTwice) _tile_dpbsud(1, 5, 2);
    if constexpr (kDeep) {
      _tile_loadd(3, atoms + kTileQuads * kPanelRow + side * kPanelRow / 2, kPanelRow);
      _tile_dpbsud(0, 6, 3);
      if constexpr (kTwice) _tile_dpbsud(1, 7, 3);
    }
    _tile_stored(0, sums.rows[0] + side * kTileSums, kSumsRow);
    if constexpr (kTwice) _tile_stored(1, sums.rows[kByteRows] + side * kTileSums, kSumsRow);
  }
}

__attribute__((target("avx512f,avx512bw"))) void Finish(const ByteProducts& t, int panel,
                                                        const Sums& sums) {
  const PanelScores to(t, panel);
  const ByteVector* vectors = t.vectors;
  const int n_vectors = t.n_vectors;
  for (int i = 0; i < n_vectors; ++i) {
    const __m512i start = _mm512_set1_epi32(vectors[i].start);
    const __m512i shift = _mm512_set1_epi32(vectors[i].shift);
    const __m512i sums0 = _mm512_add_epi32(start, _mm512_load_si512(sums.rows[i]));
    const __m512i sums1 = _mm512_add_epi32(start, _mm512_load_si512(sums.rows[i] + kTileSums));
    to.Store(i, _mm512_srav_epi32(sums0, shift), _mm512_srav_epi32(sums1, shift));
  }
}

}  // namespace

void ProjectBytesAmx(const ByteProducts& t) {
  const Bf16Tile& unit = *FindBf16Tile(Bf16UnitKind::kAmx);
  const bool deep = t.panels.n_quads() > kTileQuads;
  const auto multiply = t.n_vectors > kByteRows
                            ? (deep ? Multiply<true, true> : Multiply<true, false>)
                            : (deep ? Multiply<false, true> : Multiply<false, false>);
  Sums sums[2];
  unit.begin();  // 16 rows of 64 bytes, of bytes here
  // GCC 12 does not tell its optimiser that tiles are loaded and stored.
  asm volatile("" ::: "memory");
  LoadVectors(t);
  multiply(t, 0, sums[0]);
  for (int p = 0; p < t.panels.n_panels(); ++p) {
    if (p + 1 < t.panels.n_panels()) multiply(t, p + 1, sums[(p + 1) % 2]);
    asm volatile("" ::: "memory");
    Finish(t, p, sums[p % 2]);
  }
  unit.end();
}

}  // namespace lexico::kernels::cpu

#else
namespace lexico::kernels::cpu {
void ProjectBytesAmx(const ByteProducts&) { LEXICO_UNREACHABLE(); }
}  // namespace lexico::kernels::cpu
#endif

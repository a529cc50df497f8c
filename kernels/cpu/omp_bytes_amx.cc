// omp_bytes.h by AMX: 32 vectors times the 32 atoms of a panel are 2 x 2 tiles of 16 x 16 sums. 64
// components are two tiles of vectors and two of atoms, 4 KB, and four TDPBSUD of 16 cycles.
//
// The sums go through memory (4 KB, in L1) on their way to scores; those of a panel are read while
// the next panel is multiplied.
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

// Sums in tiles 0 1 / 2 3, vectors in 4 / 5, atoms in 6 7; without the second 16 vectors if `low`.
template <bool kLow>
LEXICO_AMX void Multiply(const ByteProducts& t, int panel, Sums& sums) {
  constexpr int kPanelRow = 4 * BytePanels::kAtoms;
  const int row_bytes = t.panels.n_quads() * 4;
  const uint8_t* atoms = t.panels.panel(panel);
  const int8_t* vectors = t.components;
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (!kLow) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int quad = 0; quad < t.panels.n_quads(); quad += kTileQuads) {
    _tile_loadd(6, atoms + quad * kPanelRow, kPanelRow);
    _tile_loadd(4, vectors + quad * 4, row_bytes);
    _tile_loadd(7, atoms + quad * kPanelRow + kPanelRow / 2, kPanelRow);
    _tile_dpbsud(0, 4, 6);
    _tile_dpbsud(1, 4, 7);
    if constexpr (!kLow) {
      _tile_loadd(5, vectors + kByteRows * row_bytes + quad * 4, row_bytes);
      _tile_dpbsud(2, 5, 6);
      _tile_dpbsud(3, 5, 7);
    }
  }
  constexpr int kSumsRow = sizeof(sums.rows[0]);
  _tile_stored(0, sums.rows[0], kSumsRow);
  _tile_stored(1, sums.rows[0] + kTileSums, kSumsRow);
  if constexpr (!kLow) {
    _tile_stored(2, sums.rows[kByteRows], kSumsRow);
    _tile_stored(3, sums.rows[kByteRows] + kTileSums, kSumsRow);
  }
}

__attribute__((target("avx512f,avx512bw"))) void Finish(const ByteProducts& t, int panel,
                                                        const Sums& sums) {
  for (int i = 0; i < t.n_vectors; ++i) {
    const __m512i start = _mm512_set1_epi32(t.vectors[i].start);
    const __m512i shift = _mm512_set1_epi32(t.vectors[i].shift);
    const __m512i sums0 = _mm512_add_epi32(start, _mm512_load_si512(sums.rows[i]));
    const __m512i sums1 = _mm512_add_epi32(start, _mm512_load_si512(sums.rows[i] + kTileSums));
    StoreScores(t, i, panel, _mm512_srav_epi32(sums0, shift), _mm512_srav_epi32(sums1, shift));
  }
}

}  // namespace

void ProjectBytesAmx(const ByteProducts& t) {
  const Bf16Tile& unit = *FindBf16Tile(Bf16UnitKind::kAmx);
  const auto multiply = t.n_vectors <= kByteRows ? Multiply<true> : Multiply<false>;
  Sums sums[2];
  unit.begin();  // 16 rows of 64 bytes, of bytes here
  // GCC 12 does not tell its optimiser that tiles are loaded and stored.
  asm volatile("" ::: "memory");
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

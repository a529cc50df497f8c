// bf16_tile.h by AMX: 2 x 2 tiles of 16 x 16 sums. A step of 32 k loads two tiles of a and two of
// b, 4 KB, for four TDPBF16PS of 16 cycles each.
//
// Linux gives a process the tile registers when it asks (arch_prctl, once for all its threads). A
// thread sets the shape of its tiles before products and gives them up after, so that the registers
// need not be saved when it is switched and oneDNN, which does the same, finds none of ours.
#include "kernels/cpu/bf16_tile.h"

#if defined(__x86_64__) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LEXICO_AMX __attribute__((target("amx-tile,amx-bf16")))

namespace lexico::kernels::cpu {
namespace {

constexpr int64_t kTileRows = 16;
constexpr int64_t kPanelRowBytes = 2 * kBf16Columns * static_cast<int64_t>(sizeof(uint16_t));

// Operand of LDTILECFG. In read-only memory: GCC 12 tells its optimiser that the instruction reads
// only 8 bytes.
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {kTileRows, kTileRows, kTileRows, kTileRows,
                      kTileRows, kTileRows, kTileRows, kTileRows};
};
static_assert(sizeof(TileShapes) == 64);
constexpr TileShapes kShapes;

LEXICO_AMX void Begin() { _tile_loadconfig(&kShapes); }
LEXICO_AMX void End() { _tile_release(); }

// Sums in tiles 0 1 / 2 3, a in 4 / 5, b in 6 7.
LEXICO_AMX void MultiplyTiles(const Bf16Product& t, int64_t panel) {
  const int64_t a_bytes = t.a_stride * static_cast<int64_t>(sizeof(uint16_t));
  const int64_t y_bytes = t.y_stride * static_cast<int64_t>(sizeof(float));
  const uint16_t* a0 = t.a;
  const uint16_t* a1 = t.a + kTileRows * t.a_stride;
  const uint16_t* b0 = t.b + panel * t.panel_stride;
  const uint16_t* b1 = b0 + t.panel_stride;
  float* y0 = t.y + panel * kBf16Columns;
  float* y1 = y0 + kTileRows * t.y_stride;
  if (t.accumulate) {
    _tile_loadd(0, y0, y_bytes);
    _tile_loadd(1, y0 + kBf16Columns, y_bytes);
    _tile_loadd(2, y1, y_bytes);
    _tile_loadd(3, y1 + kBf16Columns, y_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t k = 0; k < t.depth; k += kBf16Depth) {
    _tile_loadd(4, a0 + k, a_bytes);
    _tile_loadd(6, b0 + k * kBf16Columns, kPanelRowBytes);
    _tile_loadd(7, b1 + k * kBf16Columns, kPanelRowBytes);
    _tile_loadd(5, a1 + k, a_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, y0, y_bytes);
  _tile_stored(1, y0 + kBf16Columns, y_bytes);
  _tile_stored(2, y1, y_bytes);
  _tile_stored(3, y1 + kBf16Columns, y_bytes);
}

void Multiply(const Bf16Product& t) {
  asm volatile("" ::: "memory");  // GCC 12 does not tell its optimiser that tiles are loaded
  for (int64_t panel = 0; panel < t.n_panels; panel += kBf16Panels) MultiplyTiles(t, panel);
}

bool AskForTiles() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

constexpr Bf16Tile kTile = {.kind = Bf16UnitKind::kAmx,
                            .rows = 2 * kTileRows,
                            .begin = Begin,
                            .end = End,
                            .multiply = Multiply};

}  // namespace

const Bf16Tile* Bf16TileAmx() {
  static const bool permitted = AskForTiles();
  return permitted ? &kTile : nullptr;
}

}  // namespace lexico::kernels::cpu

#else
namespace lexico::kernels::cpu {
const Bf16Tile* Bf16TileAmx() { return nullptr; }
}  // namespace lexico::kernels::cpu
#endif

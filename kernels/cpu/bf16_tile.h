// Products of a strip of rows in BF16 with F32 sums, by the unit that this CPU has.
//
//   y [rows, 16 n_panels] = a [rows, depth] b [depth, 16 n_panels], or added to y
//
// Both units read the same forms:
//   a   row-major BF16
//   b   panels of 16 columns, in pairs of k: [n_panels][depth / 2][16 columns][2 of k] BF16. A pair
//       of a panel is 64 bytes: one vector, and one row of an AMX tile.
// Whoever packs pads with zeros: depth is a multiple of kBf16Depth and n_panels of kBf16Panels, so
// that there is one inner loop and no remainder.
//
// An element's value depends on its row of `a` and its column of b alone. Zeros at the end of the
// depth add nothing to finite sums. The two units add in another order: their bits differ.
#pragma once

#include <cstdint>

#include "kernels/cpu/matmul_onednn.h"

namespace lexico::kernels::cpu {

inline constexpr int64_t kBf16Columns = 16;  // of a panel
inline constexpr int64_t kBf16Depth = 32;    // BF16 numbers in a row of an AMX tile
inline constexpr int64_t kBf16Panels = 2;    // taken together

// Strides count elements. Rows of `a` and panels of `b` start at multiples of 64 bytes.
struct Bf16Product {
  const uint16_t* a;  // [rows, depth] BF16
  int64_t a_stride;
  const uint16_t* b;     // panels
  int64_t panel_stride;  // at least depth * kBf16Columns
  int64_t depth;
  int64_t n_panels;
  float* y;  // [rows, n_panels * kBf16Columns] F32
  int64_t y_stride;
  bool accumulate;
};

// A unit; constant and shared by all threads.
struct Bf16Tile {
  Bf16UnitKind kind;
  int64_t rows;  // of every product
  // Around the products of a thread; null where there is nothing to set up.
  void (*begin)();
  void (*end)();
  void (*multiply)(const Bf16Product& product);
};

// Null where this build, this CPU or the operating system does not have it. ONEDNN_MAX_CPU_ISA
// hides units here as well (Bf16Unit).
const Bf16Tile* FindBf16Tile(Bf16UnitKind kind);

// The fastest that FindBf16Tile gives; null where it gives none.
const Bf16Tile* BestBf16Tile();

// Of FindBf16Tile: asks nothing of the CPU, only of the build and, AMX, of the operating system.
const Bf16Tile* Bf16TileAvx512();  // bf16_tile_avx512.cc
const Bf16Tile* Bf16TileAmx();     // bf16_tile_amx.cc

}  // namespace lexico::kernels::cpu

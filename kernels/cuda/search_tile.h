// Where the search of OmpEncode finds a number of an atom: omp_multiply.cuh says why.
#pragma once

#include <cstddef>

#ifdef __CUDACC__
#define LEXICO_TILE __host__ __device__
#else
#define LEXICO_TILE
#endif

namespace lexico::kernels::cuda {

// Component i of row `row` of a tile of `tile_atoms` rows: slabs of 64 components, [tile_atoms][64]
// each, chunks of 8 components swizzled by the row.
LEXICO_TILE constexpr size_t PlaceInTile(int tile_atoms, int row, int i) {
  constexpr int kSlab = 64;
  constexpr int kChunk = 8;
  const int chunk = i % kSlab / kChunk ^ row % kChunk;
  return static_cast<size_t>(i / kSlab * tile_atoms + row) * kSlab + chunk * kChunk + i % kChunk;
}

}  // namespace lexico::kernels::cuda

#undef LEXICO_TILE

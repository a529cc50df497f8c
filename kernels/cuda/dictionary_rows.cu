// One warp an atom, those that fill the last tile too. Every lane adds up the whole norm by itself,
// in the order of ReadUnitAtoms, so that the forms are those of the host to the last bit; the
// squares of F16 numbers are exact. No shared memory, no barriers. Bound by launching: 4 MiB are
// written at 4096 x 128. Its speed was not measured yet.
#include <cuda_fp16.h>

#include "kernels/cuda/dictionary_rows.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/search_tile.h"
#include "kernels/cuda/warp.cuh"

namespace lexico::kernels::cuda {
namespace {

constexpr int kWarps = 8;

__global__ void FormsKernel(const float* rows, DictionaryForms forms) {
  const int atom = static_cast<int>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (atom >= forms.n_tiles * forms.tile_atoms) return;
  const int lane = threadIdx.x % kWarp;
  const bool there = atom < forms.n_atoms;
  const float* row = rows + static_cast<int64_t>(atom) * forms.head_dim;
  double squares = 0;
  for (int i = 0; there && i < forms.head_dim; ++i) {
    const double value = __half2float(__float2half_rn(row[i]));
    squares += value * value;
  }
  const double norm = sqrt(squares);
  if (there && lane == 0) forms.norms[atom] = static_cast<float>(norm);
  auto* tile = reinterpret_cast<__half*>(forms.halves) +
               static_cast<int64_t>(atom / forms.tile_atoms) * forms.tile_atoms * forms.search_dim;
  for (int i = lane; i < max(forms.search_dim, forms.packed_stride); i += kWarp) {
    const bool inside = there && i < forms.head_dim;
    const __half half = __float2half_rn(inside ? row[i] : 0.0f);
    const float unit = inside ? static_cast<float>(__half2float(half) / norm) : 0.0f;
    if (i < forms.search_dim) {
      tile[PlaceInTile(forms.tile_atoms, atom % forms.tile_atoms, i)] = __float2half_rn(unit);
    }
    if (!there) continue;
    if (i < forms.row_stride) forms.rows[static_cast<int64_t>(atom) * forms.row_stride + i] = unit;
    if (i < forms.packed_stride) {
      reinterpret_cast<__half*>(
          forms.packed)[static_cast<int64_t>(atom) * forms.packed_stride + i] = half;
    }
  }
}

}  // namespace

void WriteForms(const Gpu& gpu, const float* rows, const DictionaryForms& forms) {
  Launch(gpu, FormsKernel,
         {"Dictionary Forms", dim3(CeilDiv(int64_t{forms.n_tiles} * forms.tile_atoms, kWarps)),
          kWarp * kWarps},
         rows, forms);
}

}  // namespace lexico::kernels::cuda

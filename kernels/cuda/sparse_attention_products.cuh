// SparseAttention, products with the dictionaries: the table before the codes are read, and z D_v
// after; and the outputs.
#pragma once

#include <cmath>

#include "kernels/cuda/sparse_attention_common.cuh"

namespace lexico::kernels::cuda {

inline constexpr int kTableAtoms = 32;    // of one block of TableKernel: a lane an atom
inline constexpr int kTableItems = 8;     // and a warp an item
inline constexpr int kMultiplyItems = 4;  // that share a row of D_v
inline constexpr int kMultiplyWarps = 8;
inline constexpr int kMultiplyColumns = 4 * kWarp;  // of one block: a lane holds 4

// tables = scale * q D_k^T, and z = 0. Grid: (ranges of kTableAtoms atoms, kTableItems items); a
// warp an item, a lane an atom. Shared: the atoms and the queries, atoms' rows padded by 4 floats
// so that 8 lanes reading 16 bytes each meet every bank once.
template <int kLanes>
__global__ void __launch_bounds__(kTableItems* kWarp)
    TableKernel(const __grid_constant__ SparsePlan plan, const float* q, float scale, int n_heads,
                int head_dim, const float* rows, int row_stride, int n_atoms_k, int n_atoms_v,
                SparseArrays arrays) {
  extern __shared__ float4 shared[];
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int first_atom = blockIdx.x * kTableAtoms;
  const int columns = row_stride / 4;
  float4* atoms = shared;  // [kTableAtoms, columns + 1]
  float4* queries = shared + kTableAtoms * (columns + 1) + warp * kLanes * columns;
  for (int a = warp; a < kTableAtoms; a += kTableItems) {
    const int atom = min(first_atom + a, n_atoms_k - 1);
    const auto* from =
        reinterpret_cast<const float4*>(rows + static_cast<int64_t>(atom) * row_stride);
    for (int i = lane; i < columns; i += kWarp) atoms[a * (columns + 1) + i] = from[i];
  }
  WaitForPrevious();
  const int wave_item = blockIdx.y * kTableItems + warp;
  const bool real_item = wave_item < plan.n_wave_items();
  if (real_item) {
    const int item = wave_item % plan.n_items;
    const int n_real = plan.NumHeads(item, kLanes);
    const int64_t first_head =
        (plan.first_seq + wave_item / plan.n_items) * n_heads + plan.FirstHead(item, kLanes);
    auto* to = reinterpret_cast<float*>(queries);
    for (int i = lane; i < row_stride; i += kWarp) {
#pragma unroll
      for (int g = 0; g < kLanes; ++g) {
        const bool real = g < n_real && i < head_dim;
        to[g * row_stride + i] = real ? scale * q[(first_head + g) * head_dim + i] : 0.0f;
      }
    }
  }
  __syncthreads();
  if (!real_item) return;

  Lanes<kLanes> dot = {};
#pragma unroll 4
  for (int i = 0; i < columns; ++i) {
    const float4 d = atoms[lane * (columns + 1) + i];
#pragma unroll
    for (int g = 0; g < kLanes; ++g) {
      const float4 x = queries[g * columns + i];
      dot.v[g] = fmaf(x.x, d.x, fmaf(x.y, d.y, fmaf(x.z, d.z, fmaf(x.w, d.w, dot.v[g]))));
    }
  }
  const int atom = first_atom + lane;
  const int64_t place = wave_item;
  if (atom < n_atoms_k) {
    reinterpret_cast<Lanes<kLanes>*>(arrays.tables)[place * n_atoms_k + atom] = dot;
  }
  if (atom < n_atoms_v) {
    reinterpret_cast<Lanes<kLanes>*>(arrays.z)[place * n_atoms_v + atom] = {};
  }
}

// partial[range] = z D_v over kRangeAtoms atoms, for kMultiplyItems items that share the rows. A
// warp takes every kMultiplyWarps-th atom, a lane 4 components; then the warps' sums are added in
// order, item by item. Grid: (ranges, items, columns of kMultiplyColumns). Barriers: after z is in
// shared memory, and around the sums of each item.
template <int kLanes>
__global__ void __launch_bounds__(kMultiplyWarps* kWarp)
    MultiplyKernel(const __grid_constant__ SparsePlan plan, const float* rows, int row_stride,
                   int n_atoms, int head_dim, SparseArrays arrays) {
  __shared__ Lanes<kLanes> z[kMultiplyItems][kRangeAtoms];
  __shared__ float4 sums[kMultiplyWarps][kLanes][kWarp];
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int first_atom = blockIdx.x * kRangeAtoms;
  const int range_atoms = min(kRangeAtoms, n_atoms - first_atom);
  const int first_item = blockIdx.y * kMultiplyItems;
  const int n_items = min(kMultiplyItems, plan.n_wave_items() - first_item);
  WaitForPrevious();
  for (int i = threadIdx.x; i < kMultiplyItems * kRangeAtoms; i += kMultiplyWarps * kWarp) {
    const int atom = i % kRangeAtoms;
    const int64_t item = first_item + i / kRangeAtoms;
    Lanes<kLanes> value = {};
    if (i / kRangeAtoms < n_items && atom < range_atoms &&
        plan.UsedPages(static_cast<int>(item / plan.n_items)) > 0) {
#pragma unroll
      for (int g = 0; g < kLanes; ++g) {
        value.v[g] =
            arrays.units[item * kLanes + g] *
            static_cast<float>(arrays.z[(item * n_atoms + first_atom + atom) * kLanes + g]);
      }
    }
    z[i / kRangeAtoms][atom] = value;
  }
  __syncthreads();

  const int column = blockIdx.z * kMultiplyColumns + lane * 4;
  const float* from = rows + static_cast<int64_t>(first_atom) * row_stride + column;
  float4 out[kMultiplyItems][kLanes] = {};
  if (column < row_stride) {
#pragma unroll 4
    for (int a = warp; a < range_atoms; a += kMultiplyWarps) {
      const float4 d =
          *reinterpret_cast<const float4*>(from + static_cast<int64_t>(a) * row_stride);
#pragma unroll
      for (int i = 0; i < kMultiplyItems; ++i) {
        const Lanes<kLanes> weight = z[i][a];
#pragma unroll
        for (int g = 0; g < kLanes; ++g) AddScaled(weight.v[g], d, out[i][g]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kMultiplyItems; ++i) {
#pragma unroll
    for (int g = 0; g < kLanes; ++g) sums[warp][g][lane] = out[i][g];
    __syncthreads();
    const int64_t place = static_cast<int64_t>(blockIdx.x) * plan.n_wave_items() + first_item + i;
    for (int n = threadIdx.x; n < kLanes * kMultiplyColumns; n += kMultiplyWarps * kWarp) {
      const int g = n / kMultiplyColumns;
      const int component = blockIdx.z * kMultiplyColumns + n % kMultiplyColumns;
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kMultiplyWarps; ++w) {
        sum += reinterpret_cast<const float*>(sums[w][g])[n % kMultiplyColumns];
      }
      if (i < n_items && component < head_dim) {
        arrays.partial[(place * kLanes + g) * head_dim + component] = sum;
      }
    }
    __syncthreads();
  }
}

// Adds the ranges in order and writes the outputs. Grid: (items, lanes); a thread a component.
template <int kLanes>
__global__ void FinishKernel(const __grid_constant__ SparsePlan plan, int n_heads, int head_dim,
                             int n_ranges, SparseArrays arrays, float* out, float* max_score,
                             float* sum_exp) {
  WaitForPrevious();
  const int64_t wave_item = blockIdx.x;
  const int g = blockIdx.y;
  const int seq = static_cast<int>(wave_item / plan.n_items);
  const int item = static_cast<int>(wave_item % plan.n_items);
  if (g >= plan.NumHeads(item, kLanes)) return;
  const int64_t head = (plan.first_seq + seq) * n_heads + plan.FirstHead(item, kLanes) + g;
  const bool empty = plan.UsedPages(seq) == 0;
  const HeadSums sums = empty ? HeadSums{-INFINITY, 0} : arrays.heads[wave_item * kLanes + g];
  if (threadIdx.x == 0) {
    max_score[head] = sums.max;
    sum_exp[head] = sums.sum;
  }
  if (threadIdx.x >= head_dim) return;
  const float* partial = arrays.partial + (wave_item * kLanes + g) * head_dim + threadIdx.x;
  const int64_t range_floats = static_cast<int64_t>(plan.n_wave_items()) * kLanes * head_dim;
  float value = 0;
#pragma unroll 16
  for (int range = 0; range < n_ranges; ++range) value += partial[range * range_floats];
  out[head * head_dim + threadIdx.x] = isfinite(sums.sum) ? value : NAN;
}

}  // namespace lexico::kernels::cuda

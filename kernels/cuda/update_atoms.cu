// Two kernels. Accumulate: a warp a vector, lane l its components l, l + 32, ...; the residual
// stays in registers, and its multiples go to the sums of the vector's atoms, which are in fixed
// point (fixed_sum.h): deterministic whatever the order, and without a sort of the codes. A warp
// adds 256 consecutive bytes at a time, so that L2 takes them by sectors; an atom that many vectors
// hold costs one addition a sector and use, not a long chain of one warp. Turn: a warp an atom.
//
// No shared memory, no barriers. Bound by rows out of L2 (4 * sparsity * head_dim bytes a vector)
// and as many additions there of twice the bytes. Its speed was not measured yet.
#include "kernels/cuda/codes.cuh"
#include "kernels/cuda/fixed_sum.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/update_atoms.h"
#include "kernels/cuda/warp.cuh"
#include "proto/base/limits.h"

namespace lexico::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kPartsMax = base::kHeadDimMax / kWarp;

// In the workspace, zero before Accumulate.
struct Sums {
  unsigned long long* g;        // [n_atoms, head_dim]
  unsigned long long* squares;  // [n_atoms]
};

// kParts * kWarp >= head_dim.
template <int kParts>
__global__ void AccumulateKernel(const float* x, const uint16_t* atoms, const uint8_t* coefs,
                                 const float* rel_error, const float* rows, int64_t n_vectors,
                                 int head_dim, int sparsity, Sums sums, int32_t* n_uses) {
  const int64_t vector = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (vector >= n_vectors) return;
  const int lane = threadIdx.x % kWarp;
  atoms += vector * sparsity;
  coefs += vector * sparsity;
  float residual[kParts];
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    const int i = p * kWarp + lane;
    residual[p] = i < head_dim ? x[vector * head_dim + i] : 0.0f;
  }
  for (int j = 0; j < sparsity; ++j) {
    const float c = E4m3PairToFloat(coefs[j]).x;
    if (c == 0) continue;
    const float* row = rows + static_cast<int64_t>(atoms[j]) * head_dim;
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      const int i = p * kWarp + lane;
      if (i < head_dim) residual[p] = fmaf(-c, row[i], residual[p]);
    }
  }
  const float counts = kUpdateErrorFloor / fmaxf(rel_error[vector], kUpdateErrorFloor);
  for (int j = 0; j < sparsity; ++j) {
    const float c = E4m3PairToFloat(coefs[j]).x;
    if (c == 0) continue;
    const int atom = atoms[j];
    unsigned long long* g = sums.g + static_cast<int64_t>(atom) * head_dim;
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      const int i = p * kWarp + lane;
      if (i < head_dim) atomicAdd(g + i, ToFixed(counts * c * residual[p]));
    }
    if (lane == 0) {
      atomicAdd(sums.squares + atom, ToFixed(counts * c * c));
      atomicAdd(n_uses + atom, 1);
    }
  }
}

__global__ void TurnKernel(Sums sums, int n_atoms, int head_dim, float memory, float* rows,
                           float* weights) {
  const int atom = static_cast<int>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (atom >= n_atoms) return;
  const int lane = threadIdx.x % kWarp;
  const unsigned long long squares = sums.squares[atom];
  const double weight = weights[atom] + FromFixed(squares);
  __syncwarp();  // all lanes have read what lane 0 writes
  if (lane == 0) weights[atom] = static_cast<float>(memory * weight);
  if (squares == 0) return;
  float* row = rows + static_cast<int64_t>(atom) * head_dim;
  const unsigned long long* g = sums.g + static_cast<int64_t>(atom) * head_dim;
  double sum[kPartsMax];
  double norm = 0;
#pragma unroll
  for (int p = 0; p < kPartsMax; ++p) {
    const int i = p * kWarp + lane;
    sum[p] = i < head_dim ? weight * row[i] + FromFixed(g[i]) : 0.0;
    norm += sum[p] * sum[p];
  }
  norm = sqrt(WarpSum(norm));
  if (!(norm > kUpdateNormMin)) return;
#pragma unroll
  for (int p = 0; p < kPartsMax; ++p) {
    const int i = p * kWarp + lane;
    if (i < head_dim) row[i] = static_cast<float>(sum[p] / norm);
  }
}

template <int kParts>
void Accumulate(const UpdateAtomsArgs& args, const Gpu& gpu, const Sums& sums) {
  const int64_t n_vectors = args.x.dim(0);
  Launch(gpu, AccumulateKernel<kParts>,
         {"UpdateAtoms Accumulate", dim3(CeilDiv(n_vectors, kWarps)), kWarp * kWarps},
         args.x.as<float>(), args.atoms.as<uint16_t>(), args.coefs.as<uint8_t>(),
         args.rel_error.as<float>(), args.rows.as<float>(), n_vectors,
         static_cast<int>(args.x.dim(1)), static_cast<int>(args.atoms.dim(1)), sums,
         args.n_uses.as_mutable<int32_t>());
}

}  // namespace

void UpdateAtoms(const UpdateAtomsArgs& args, const Stream& stream) {
  const Gpu& gpu = GpuOf(stream);
  const int n_atoms = static_cast<int>(args.rows.dim(0));
  const int head_dim = static_cast<int>(args.rows.dim(1));
  WorkspaceCutter cutter(gpu.workspace());
  Sums sums = {};
  sums.g = cutter.Take<unsigned long long>(static_cast<size_t>(n_atoms) * head_dim);
  sums.squares = cutter.Take<unsigned long long>(n_atoms);
  LEXICO_CHECK_LE(cutter.bytes(), gpu.workspace_bytes());
  stream.Zero(gpu.workspace(), cutter.bytes());
  if (head_dim <= 2 * kWarp) {
    Accumulate<2>(args, gpu, sums);
  } else if (head_dim <= 4 * kWarp) {
    Accumulate<4>(args, gpu, sums);
  } else {
    Accumulate<kPartsMax>(args, gpu, sums);
  }
  Launch(gpu, TurnKernel, {"UpdateAtoms Turn", dim3(CeilDiv(n_atoms, kWarps)), kWarp * kWarps},
         sums, n_atoms, head_dim, args.memory, args.rows.as_mutable<float>(),
         args.weights.as_mutable<float>());
}

}  // namespace lexico::kernels::cuda

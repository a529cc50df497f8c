// One warp a vector. Its atoms with a coefficient are gathered by ballots, x^ lies in the lanes'
// registers (a lane holds 4 of every 128 components), products with rows are made by all lanes
// together and added in double, and the pursuit (kernels/api/support_pursuit.h) shares out the
// places among the lanes. Rows come from L2: up to n of n atoms for each that is taken.
//
// Shared memory: a warp's SupportMemory, 2 KiB for 16 atoms to 8, 35 KiB for 64 to 64; fewer warps
// a block where they do not fit. No barriers but the warp's own; deterministic. Its speed was not
// measured yet.
#include <cuda_fp8.h>

#include <algorithm>
#include <cmath>

#include "kernels/api/support_pursuit.h"
#include "kernels/cuda/codes.cuh"
#include "kernels/cuda/demote_codes.h"
#include "kernels/cuda/dictionary.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/omp_lanes.cuh"
#include "kernels/cuda/warp.cuh"
#include "proto/base/limits.h"

namespace lexico::kernels::cuda {
namespace {

constexpr int kWarpsMax = 4;  // of a block

struct WarpTeam {
  __device__ int Lane() const { return static_cast<int>(threadIdx.x % kWarp); }
  __device__ int Lanes() const { return kWarp; }
  __device__ void Sync() const { __syncwarp(); }
  __device__ SupportPick Best(SupportPick mine) const {
#pragma unroll
    for (int i = kWarp / 2; i > 0; i /= 2) {
      const SupportPick other = {__shfl_xor_sync(kAllLanes, mine.score, i),
                                 __shfl_xor_sync(kAllLanes, mine.atom, i),
                                 __shfl_xor_sync(kAllLanes, mine.place, i)};
      // Equal atoms: the first place, so that all lanes agree.
      const bool is_same = other.score == mine.score && other.atom == mine.atom;
      if (is_same ? other.place >= 0 && other.place < mine.place : other.IsBetterThan(mine)) {
        mine = other;
      }
    }
    return mine;
  }
};

// Beside a warp's SupportMemory.
struct WarpPlaces {
  int picks[base::kSparsityMax];
  uint16_t support[base::kSparsityMax];
  uint8_t open[base::kSparsityMax];
};

// Of a warp, a multiple of 16.
__host__ __device__ constexpr size_t WarpBytes(int n, int sparsity) {
  return (sizeof(WarpPlaces) + SupportMemory::Doubles(n, sparsity) * sizeof(double) + 15) / 16 * 16;
}

struct Demoted {
  uint16_t* atoms;   // [n_vectors, sparsity]
  uint8_t* coefs;    // [n_vectors, sparsity]
  float* rel_error;  // [n_vectors]
  int sparsity;
};

// The atoms of a vector that have a coefficient, in stored order, and how many.
__device__ int GatherSupport(const uint16_t* atoms, const uint8_t* coefs, int sparsity,
                             uint16_t* support) {
  const int lane = threadIdx.x % kWarp;
  int n = 0;
  for (int first = 0; first < sparsity; first += kWarp) {
    const int j = first + lane;
    const bool is_used = j < sparsity && (coefs[j] & 0x7f) != 0;
    const uint32_t used = __ballot_sync(kAllLanes, is_used);
    if (is_used) support[n + __popc(used & ((1u << lane) - 1))] = atoms[j];
    n += __popc(used);
  }
  __syncwarp();
  return n;
}

template <int kParts>
__device__ LanePart<kParts> LoadRow(const float* rows, int row_stride, int atom) {
  return LanePart<kParts>::Load(rows + static_cast<int64_t>(atom) * row_stride, row_stride);
}

// x^ of a vector as Reconstruct adds it up.
template <int kParts>
__device__ LanePart<kParts> Approximation(const uint16_t* atoms, const uint8_t* coefs, int sparsity,
                                          const float* rows, int row_stride) {
  LanePart<kParts> sum = {};
  for (int j = 0; j < sparsity; ++j) {
    sum.Add(E4m3PairToFloat(coefs[j]).x, LoadRow<kParts>(rows, row_stride, atoms[j]));
  }
  return sum;
}

template <int kParts>
__global__ void DemoteKernel(const __grid_constant__ CodePages codes, const float* rows,
                             int row_stride, int n_kv_heads, int64_t n_vectors,
                             const __grid_constant__ Demoted out) {
  extern __shared__ double2 shared[];
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int64_t vector = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + warp;
  if (vector >= n_vectors) return;  // a whole warp
  char* own = reinterpret_cast<char*>(shared) + warp * WarpBytes(codes.sparsity, out.sparsity);
  WarpPlaces& places = *reinterpret_cast<WarpPlaces*>(own);
  const SupportMemory memory(reinterpret_cast<double*>(own + sizeof(WarpPlaces)), codes.sparsity,
                             out.sparsity);

  const int64_t token = vector / n_kv_heads;
  const uint8_t* page = codes.pages[token / codes.page_tokens];
  const uint8_t* block = codes.Block(page, static_cast<int>(vector % n_kv_heads));
  const int place_in_page = static_cast<int>(token % codes.page_tokens);
  const uint16_t* atoms = codes.Atoms(block, place_in_page);
  const uint8_t* coefs = codes.Coefs(block, place_in_page);
  const int n = GatherSupport(atoms, coefs, codes.sparsity, places.support);
  const LanePart<kParts> x = Approximation<kParts>(atoms, coefs, codes.sparsity, rows, row_stride);
  const double squares = WarpSum(x.DotShareDouble(x));

  SupportPursuit<WarpTeam> pursuit({}, memory, places.support, n, out.sparsity, places.picks,
                                   places.open);
  for (int j = 0; j < n; ++j) {
    const double product =
        WarpSum(x.DotShareDouble(LoadRow<kParts>(rows, row_stride, places.support[j])));
    if (lane == 0) memory.score[j] = product;
  }
  pursuit.Begin(squares);
  const bool is_finite = isfinite(squares);
  for (int a = is_finite ? pursuit.Next() : -1; a >= 0; a = pursuit.Next()) {
    const LanePart<kParts> taken = LoadRow<kParts>(rows, row_stride, places.support[a]);
    for (int j = 0; j < n; ++j) {
      if (!pursuit.IsOpen(j)) continue;
      const double product =
          WarpSum(taken.DotShareDouble(LoadRow<kParts>(rows, row_stride, places.support[j])));
      if (lane == 0) memory.column[j] = product;
    }
    __syncwarp();
    pursuit.Take(a);
  }
  pursuit.Solve();

  LanePart<kParts> rest = x;
  const int n_picks = pursuit.n_picks();
  for (int k = 0; k < out.sparsity; ++k) {
    uint16_t atom = 0;
    uint8_t coef = 0;
    if (k < n_picks) {
      atom = places.support[places.picks[k]];
      coef = __nv_cvt_float_to_fp8(static_cast<float>(memory.coefficients[k]), __NV_SATFINITE,
                                   __NV_E4M3);
      rest.Add(-E4m3PairToFloat(coef).x, LoadRow<kParts>(rows, row_stride, atom));
    }
    if (lane == 0) out.atoms[vector * out.sparsity + k] = atom;
    if (lane == 0) out.coefs[vector * out.sparsity + k] = coef;
  }
  const double error = WarpSum(rest.DotShareDouble(rest));
  if (lane == 0) {
    out.rel_error[vector] = !is_finite     ? NAN
                            : squares == 0 ? 0.0f
                                           : static_cast<float>(sqrt(error / squares));
  }
}

template <int kParts>
void Run(const DemoteCodesArgs& args, const Gpu& gpu) {
  const Dictionary& dictionary = AsCuda(*args.dictionary);
  const int64_t n_vectors = args.n_pages * args.layout.page_tokens * args.layout.n_kv_heads;
  const size_t warp_bytes = WarpBytes(args.layout.code(args.value).sparsity, args.sparsity);
  const int warps =
      static_cast<int>(std::clamp<size_t>(gpu.shared_bytes_max() / warp_bytes, 1, kWarpsMax));
  Launch(gpu, DemoteKernel<kParts>,
         {"DemoteCodes", dim3(CeilDiv(n_vectors, warps)), warps * kWarp, warps * warp_bytes},
         CodePages(args.pages, args.page_offset, args.layout, args.value), dictionary.rows(),
         dictionary.row_stride(), args.layout.n_kv_heads, n_vectors,
         Demoted{.atoms = args.atoms.as_mutable<uint16_t>(),
                 .coefs = args.coefs.as_mutable<uint8_t>(),
                 .rel_error = args.rel_error.as_mutable<float>(),
                 .sparsity = args.sparsity});
}

}  // namespace

void DemoteCodes(const DemoteCodesArgs& args, const Stream& stream) {
  const Gpu& gpu = GpuOf(stream);
  args.layout.head_dim <= 128 ? Run<1>(args, gpu) : Run<2>(args, gpu);
}

}  // namespace lexico::kernels::cuda

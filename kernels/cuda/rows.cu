// Copies and roundings, bound by memory (the codes of a page are 3 bytes a pair, dense halves 2 or
// 4 bytes a number). Deterministic: no sums but the mean of a page's errors, which one thread adds
// in order.
//
//   RoundToType   a thread a group of 4; whoever meets a number that is not finite writes 1
//   StoreRows     a block a sequence, half of it for the key and half for the value; one barrier
//                 that also joins what the threads found
//   PackCodes     a block a page and head; a warp orders 8 tokens (code_order.h), then a thread
//                 moves a pair; a thread of the first head adds up the errors: page_tokens *
//                 n_kv_heads reads from L1, which other blocks of the multiprocessor hide
//   PackDense, UnpackDense   a block a page and head, a thread a number
//   CopyBlocks    a block of threads a copy and slice of kCopySlice bytes, 16 bytes a thread where
//                 both addresses and the length allow it
//
// Measured as elementwise.cu, 1 and 1024 pages of 32 tokens and 8 heads of 128: PackCodes at
// sparsity 16 54 us, and 874 us for 1024, 2 % of a prefill with coding (without an order 9.2 us and
// 1.2 TB/s): about 5,000 cycles a place, chains of integer operations; PackDense 6.6 us, 2.1 TB/s;
// UnpackDense 6.3 us, 2.1 TB/s; CopyBlocks 5.0 us, 2.7 TB/s. RoundToType of 8192 rows of 1024 runs
// from L2, 18.1 us.
#include <algorithm>

#include "kernels/cuda/groups.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/order_codes.cuh"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/rows.h"
#include "proto/base/limits.h"

namespace lexico::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr size_t kCopySlice = 16 * 1024;
constexpr int kPackThreads = 128;
constexpr int kChunkTokens = 32;   // of a page, packed at a time: a warp orders 8
constexpr int kSlicesMax = 65535;  // of a grid's second dimension

template <typename T>
__global__ void RoundKernel(float* x, int64_t n, bool whole, int32_t* non_finite) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kGroup;
  if (i >= n) return;
  const bool full = whole && i + kGroup <= n;
  float4 v = LoadGroup(x + i, n - i, full);
  v = {Widen(Narrow<T>(v.x)), Widen(Narrow<T>(v.y)), Widen(Narrow<T>(v.z)), Widen(Narrow<T>(v.w))};
  StoreGroup(v, x + i, n - i, full);
  if (!isfinite(v.x) || !isfinite(v.y) || !isfinite(v.z) || !isfinite(v.w)) *non_finite = 1;
}

template <typename T>
__global__ void StoreRowsKernel(const float* k, const float* v, int64_t n, void* const* k_rows,
                                void* const* v_rows, int32_t* non_finite) {
  WaitForPrevious();
  const int64_t seq = blockIdx.x;
  const bool value = threadIdx.x >= kThreads / 2;
  const float* from = (value ? v : k) + seq * n;
  T* to = static_cast<T*>((value ? v_rows : k_rows)[seq]);
  bool finite = true;
  for (int64_t i = threadIdx.x % (kThreads / 2); i < n; i += kThreads / 2) {
    const T x = Narrow<T>(from[i]);
    to[i] = x;
    finite = finite && isfinite(Widen(x));
  }
  const int bad_keys = __syncthreads_or(!value && !finite);
  const int bad_values = __syncthreads_or(value && !finite);
  if (threadIdx.x == 0) {
    non_finite[seq] = (bad_keys != 0 ? kNonFiniteKey : 0) | (bad_values != 0 ? kNonFiniteValue : 0);
  }
}

struct Codes {
  const uint16_t* atoms;
  const uint8_t* coefs;
  const float* rel_error;
  uint8_t* const* pages;
  float* page_error;
  int64_t offset;      // of the half from pages[i]
  int64_t head_bytes;  // of the half
  int page_tokens;
  int n_kv_heads;
  int sparsity;
};

// The codes of one head of a page.
__global__ void PackCodesKernel(const __grid_constant__ Codes codes) {
  __shared__ uint16_t atoms[kChunkTokens * base::kSparsityMax];  // [token, sparsity]
  __shared__ TokenBanks banks[kChunkTokens / kOrderTokens][base::kSparsityMax];
  const int64_t page = blockIdx.x;
  const int head = blockIdx.y;
  const int n_vectors = codes.page_tokens * codes.n_kv_heads;
  const int sparsity = codes.sparsity;
  const int token_step = codes.n_kv_heads * sparsity;
  uint8_t* block = codes.pages[page] + codes.offset + head * codes.head_bytes;
  for (int first = 0; first < codes.page_tokens; first += kChunkTokens) {
    const int64_t from = (page * n_vectors + first * codes.n_kv_heads + head) * sparsity;
    const int n_tokens = min(codes.page_tokens - first, kChunkTokens);
    for (int i = threadIdx.x; i < n_tokens * sparsity; i += kPackThreads) {
      atoms[i] = codes.atoms[from + i / sparsity * token_step + i % sparsity];
    }
    __syncthreads();
    for (int group = threadIdx.x / 32; group * kOrderTokens < n_tokens;
         group += kPackThreads / 32) {
      OrderGroup(atoms + group * kOrderTokens * sparsity, sparsity,
                 min(n_tokens - group * kOrderTokens, kOrderTokens), banks[group]);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n_tokens * sparsity; i += kPackThreads) {
      const int token = i / sparsity;
      const int code = i % sparsity;
      const int place = (first + token) * sparsity +
                        PlaceOfCode(banks[token / kOrderTokens], token % kOrderTokens,
                                    atoms + token * sparsity, sparsity, code);
      reinterpret_cast<uint16_t*>(block)[place] = atoms[i];
      block[2 * codes.page_tokens * sparsity + place] =
          codes.coefs[from + token * token_step + code];
    }
    __syncthreads();
  }
  if (threadIdx.x != 0 || head != 0) return;
  double sum = 0;
  for (int i = 0; i < n_vectors; ++i) sum += codes.rel_error[page * n_vectors + i];
  codes.page_error[page] = static_cast<float>(sum / n_vectors);
}

// Element i of block (page, head) of the half: token i / head_dim. Its place among the rows.
__device__ int64_t RowPlace(const PageLayout& layout, int64_t page, int head, int i) {
  const int64_t token = page * layout.page_tokens + i / layout.head_dim;
  return (token * layout.n_kv_heads + head) * layout.head_dim + i % layout.head_dim;
}

template <typename T>
__global__ void PackDenseKernel(const __grid_constant__ PageLayout layout, const float* rows,
                                uint8_t* const* pages, int64_t offset) {
  const int n = layout.page_tokens * layout.head_dim;
  const int head = blockIdx.y;
  T* to = reinterpret_cast<T*>(pages[blockIdx.x] + offset) + static_cast<int64_t>(head) * n;
  for (int i = threadIdx.x; i < n; i += kThreads) {
    to[i] = Narrow<T>(rows[RowPlace(layout, blockIdx.x, head, i)]);
  }
}

template <typename T>
__global__ void UnpackDenseKernel(const __grid_constant__ PageLayout layout,
                                  const uint8_t* const* pages, int64_t offset, float* rows) {
  const int n = layout.page_tokens * layout.head_dim;
  const int head = blockIdx.y;
  const T* from =
      reinterpret_cast<const T*>(pages[blockIdx.x] + offset) + static_cast<int64_t>(head) * n;
  for (int i = threadIdx.x; i < n; i += kThreads) {
    rows[RowPlace(layout, blockIdx.x, head, i)] = Widen(from[i]);
  }
}

template <typename T>
__device__ void CopySlices(const void* from, void* to, size_t bytes) {
  const size_t n = bytes / sizeof(T);
  constexpr size_t kSlice = kCopySlice / sizeof(T);
  for (size_t begin = blockIdx.y * kSlice; begin < n; begin += gridDim.y * kSlice) {
    const size_t end = min(begin + kSlice, n);
    for (size_t i = begin + threadIdx.x; i < end; i += kThreads) {
      static_cast<T*>(to)[i] = static_cast<const T*>(from)[i];
    }
  }
}

__global__ void CopyBlocksKernel(const void* const* from, void* const* to, size_t bytes) {
  const void* source = from[blockIdx.x];
  void* target = to[blockIdx.x];
  const size_t place =
      reinterpret_cast<uintptr_t>(source) | reinterpret_cast<uintptr_t>(target) | bytes;
  if (place % sizeof(uint4) == 0) {
    CopySlices<uint4>(source, target, bytes);
  } else {
    CopySlices<uint8_t>(source, target, bytes);
  }
}

int64_t HalfOffset(const PageLayout& layout, bool value, size_t page_offset) {
  return static_cast<int64_t>(page_offset + layout.head_offset(value, 0));
}

}  // namespace

void RoundToType(MutableTensorView x, DType type, int32_t* non_finite, const Stream& stream) {
  const int64_t n = x.size();
  const bool whole = WholeGroups(x.data, x.dtype, kGroup);
  WithType(type, [&](auto zero) {
    using T = decltype(zero);
    Launch(GpuOf(stream), RoundKernel<T>,
           {"RoundToType", dim3(CeilDiv(n, kThreads * kGroup)), kThreads}, x.as_mutable<float>(), n,
           whole, non_finite);
  });
}

void StoreRows(const StoreRowsArgs& args, const Stream& stream) {
  WithType(args.type, [&](auto zero) {
    using T = decltype(zero);
    Launch(GpuOf(stream), StoreRowsKernel<T>,
           {"StoreRows", dim3(args.k.dim(0)), kThreads, 0, kOverlaps}, args.k.as<float>(),
           args.v.as<float>(), args.k.dim(1), args.k_rows, args.v_rows, args.non_finite);
  });
}

void PackCodes(const PackCodesArgs& args, const Stream& stream) {
  const PageLayout& layout = args.layout;
  const int sparsity = static_cast<int>(args.atoms.dim(1));
  const int64_t n_pages = args.atoms.dim(0) / (layout.page_tokens * layout.n_kv_heads);
  const Codes codes = {.atoms = args.atoms.as<uint16_t>(),
                       .coefs = args.coefs.as<uint8_t>(),
                       .rel_error = args.rel_error.as<float>(),
                       .pages = args.pages,
                       .page_error = args.page_error,
                       .offset = HalfOffset(layout, args.value, args.page_offset),
                       .head_bytes = static_cast<int64_t>(layout.head_bytes(args.value)),
                       .page_tokens = layout.page_tokens,
                       .n_kv_heads = layout.n_kv_heads,
                       .sparsity = sparsity};
  Launch(GpuOf(stream), PackCodesKernel,
         {"PackCodes", dim3(n_pages, layout.n_kv_heads), kPackThreads}, codes);
}

void PackDense(const PackDenseArgs& args, const Stream& stream) {
  const PageLayout& layout = args.layout;
  const dim3 blocks(args.rows.dim(0) / layout.page_tokens, layout.n_kv_heads);
  WithType(layout.dense_type, [&](auto zero) {
    using T = decltype(zero);
    Launch(GpuOf(stream), PackDenseKernel<T>, {"PackDense", blocks, kThreads}, layout,
           args.rows.as<float>(), args.pages, HalfOffset(layout, args.value, args.page_offset));
  });
}

void UnpackDense(const UnpackDenseArgs& args, const Stream& stream) {
  const PageLayout& layout = args.layout;
  const dim3 blocks(args.rows.dim(0) / layout.page_tokens, layout.n_kv_heads);
  WithType(layout.dense_type, [&](auto zero) {
    using T = decltype(zero);
    Launch(GpuOf(stream), UnpackDenseKernel<T>, {"UnpackDense", blocks, kThreads}, layout,
           args.pages, HalfOffset(layout, args.value, args.page_offset),
           args.rows.as_mutable<float>());
  });
}

void CopyBlocks(const void* const* from, void* const* to, int64_t n, size_t bytes,
                const Stream& stream) {
  const int64_t slices =
      std::min<int64_t>(CeilDiv(static_cast<int64_t>(bytes), kCopySlice), kSlicesMax);
  Launch(GpuOf(stream), CopyBlocksKernel, {"CopyBlocks", dim3(n, slices), kThreads}, from, to,
         bytes);
}

}  // namespace lexico::kernels::cuda

// Two kernels. Chunks: a block of 256 threads has 2,048 logits of one row, 8 neighbours a thread,
// finds their best n_top by a stable radix sort (CUB; by a reduction where n_top is 1), their
// largest and, against that, their two sums of exponentials. Rows: a block a row joins its chunks:
// the largest of all, the sums scaled to it, the best of the chunks' bests (4,096 at a time, the
// best so far in front), and the token that is drawn, by a running sum over chunks and then within
// one.
//
// Every logit is read once (the chunk that is drawn from twice). Sums are in double and joined in a
// fixed order: equal on every run. Shared memory is that of CUB's sort, static.
#include <cuda_runtime.h>

#include <algorithm>
#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#include <limits>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/top_logits.h"
#include "proto/base/check.h"

namespace lexico::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kItems = 8;
constexpr int kChunk = kThreads * kItems;
constexpr int kMergeItems = 16;
constexpr int kMerge = kThreads * kMergeItems;
constexpr int kNone = std::numeric_limits<int32_t>::max();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct ChunkSums {
  double sum;
  double sum_at_temperature;
  float max;
  int32_t bad;  // or kNone
};

struct Best {
  float logit;
  int32_t id;
};

struct Better {
  __device__ Best operator()(const Best& a, const Best& b) const {
    if (a.logit != b.logit) return a.logit > b.logit ? a : b;
    return static_cast<uint32_t>(a.id) < static_cast<uint32_t>(b.id) ? a : b;
  }
};

struct Larger {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

struct Smaller {
  __device__ int operator()(int a, int b) const { return min(a, b); }
};

// The arrays of the workspace, for rows first_row ...
struct Work {
  ChunkSums* sums;   // [n_rows, n_chunks]
  float* top;        // [n_rows, n_chunks, n_top]
  int32_t* top_ids;  // [n_rows, n_chunks, n_top]
  int n_chunks;
};

using Reduce = cub::BlockReduce<Best, kThreads>;
using ReduceDouble = cub::BlockReduce<double, kThreads>;
using ReduceFloat = cub::BlockReduce<float, kThreads>;
using ReduceInt = cub::BlockReduce<int, kThreads>;
using ScanDouble = cub::BlockScan<double, kThreads>;
template <int kN>
using Sort = cub::BlockRadixSort<float, kThreads, kN, int32_t>;

template <int kN>
union Shared {
  typename Sort<kN>::TempStorage sort;
  Reduce::TempStorage best;
  ReduceDouble::TempStorage doubles;
  ReduceFloat::TempStorage floats;
  ReduceInt::TempStorage ints;
  ScanDouble::TempStorage scan;
};

// All threads get the result of a reduction that only thread 0 has.
template <typename T>
__device__ T ForAll(T value) {
  __shared__ T shared;
  __syncthreads();
  if (threadIdx.x == 0) shared = value;
  __syncthreads();
  return shared;
}

__device__ double Weight(float logit, float max, double temperature) {
  return exp((static_cast<double>(logit) - max) / temperature);
}

__device__ void LoadChunk(const float* row, int64_t n_vocab, int chunk, float (&logits)[kItems],
                          int32_t (&ids)[kItems]) {
  const int64_t first = static_cast<int64_t>(chunk) * kChunk + threadIdx.x * kItems;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const bool inside = first + i < n_vocab;
    logits[i] = inside ? row[first + i] : -kInfinity;
    ids[i] = inside ? static_cast<int32_t>(first + i) : -1;
  }
}

// The first n_top of kN items a thread, in order, to top and top_ids. With kSort false: the best.
template <bool kSort, int kN>
__device__ void StoreTop(float (&logits)[kN], int32_t (&ids)[kN], int n_top, float* top,
                         int32_t* top_ids, Shared<kN>& shared) {
  if constexpr (kSort) {
    Sort<kN>(shared.sort).SortDescending(logits, ids);
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      const int at = static_cast<int>(threadIdx.x) * kN + i;
      if (at >= n_top) break;
      top[at] = logits[i];
      top_ids[at] = ids[i];
    }
  } else {
    Best best = {logits[0], ids[0]};
#pragma unroll
    for (int i = 1; i < kN; ++i) best = Better()(best, {logits[i], ids[i]});
    best = Reduce(shared.best).Reduce(best, Better());
    if (threadIdx.x == 0) {
      *top = best.logit;
      *top_ids = best.id;
    }
  }
  __syncthreads();
}

template <bool kSort>
__global__ void __launch_bounds__(kThreads)
    TopLogitsOfChunks(const float* logits, int64_t n_vocab, int n_top, const RowDraw* draws,
                      Work work) {
  WaitForPrevious();
  __shared__ Shared<kItems> shared;
  const int chunk = blockIdx.x;
  const int64_t row = blockIdx.y;
  float items[kItems];
  int32_t ids[kItems];
  LoadChunk(logits + row * n_vocab, n_vocab, chunk, items, ids);

  int bad = kNone;
  float max = -kInfinity;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (isnan(items[i]) || items[i] == kInfinity) {
      bad = min(bad, ids[i]);
    }
    max = fmaxf(max, items[i]);
  }
  max = ForAll(ReduceFloat(shared.floats).Reduce(max, Larger()));
  bad = ReduceInt(shared.ints).Reduce(bad, Smaller());
  double sum = 0;
  double sum_at_temperature = 0;
  if (max > -kInfinity) {
    const double temperature = draws[row].temperature;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      sum += exp(static_cast<double>(items[i]) - max);
      sum_at_temperature += Weight(items[i], max, temperature);
    }
  }
  __syncthreads();
  sum = ReduceDouble(shared.doubles).Sum(sum);
  __syncthreads();
  sum_at_temperature = ReduceDouble(shared.doubles).Sum(sum_at_temperature);
  const int64_t at = row * work.n_chunks + chunk;
  if (threadIdx.x == 0) work.sums[at] = {sum, sum_at_temperature, max, bad};
  __syncthreads();
  StoreTop<kSort>(items, ids, n_top, work.top + at * n_top, work.top_ids + at * n_top, shared);
}

// Bests of all chunks of a row -> the bests of the row.
template <bool kSort>
__device__ void MergeTops(const float* tops, const int32_t* top_ids, int n, int n_top, float* out,
                          int32_t* out_ids, Shared<kMergeItems>& shared) {
  float items[kMergeItems];
  int32_t ids[kMergeItems];
  int n_kept = 0;  // the best so far lie in `out`
  for (int begin = 0; begin < n;) {
    const int n_new = min(kMerge - n_kept, n - begin);
#pragma unroll
    for (int i = 0; i < kMergeItems; ++i) {
      const int at = static_cast<int>(threadIdx.x) * kMergeItems + i;
      const bool inside = at < n_kept + n_new;
      const bool kept = at < n_kept;
      const int from = begin + at - n_kept;
      items[i] = !inside ? -kInfinity : kept ? out[at] : tops[from];
      ids[i] = !inside ? -1 : kept ? out_ids[at] : top_ids[from];
    }
    __syncthreads();
    StoreTop<kSort>(items, ids, n_top, out, out_ids, shared);
    n_kept = n_top;
    begin += n_new;
  }
}

// The first token whose running sum exceeds the target. REQUIRES: the chunks' sums are scaled to
// `max` in scaled[n_chunks].
__device__ int32_t Draw(const float* row, int64_t n_vocab, const RowDraw& draw, float max,
                        double target, const double* scaled, int n_chunks,
                        Shared<kMergeItems>& shared) {
  double before = 0;
  int chunk = 0;
  // Every thread runs the same few sums.
  while (chunk < n_chunks - 1 && before + scaled[chunk] <= target) before += scaled[chunk++];
  for (; chunk < n_chunks; ++chunk) {
    float items[kItems];
    int32_t ids[kItems];
    LoadChunk(row, n_vocab, chunk, items, ids);
    double weights[kItems];
    double sums[kItems];
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      weights[i] = ids[i] < 0 ? 0 : Weight(items[i], max, draw.temperature);
    }
    double total = 0;
    __syncthreads();
    ScanDouble(shared.scan).InclusiveSum(weights, sums, total);
    int found = kNone;
#pragma unroll
    for (int i = kItems - 1; i >= 0; --i) {
      if (ids[i] >= 0 && before + sums[i] > target) found = ids[i];
    }
    __syncthreads();
    found = ForAll(ReduceInt(shared.ints).Reduce(found, Smaller()));
    if (found != kNone) return found;
    before += total;
  }
  return -1;
}

template <bool kSort>
__global__ void __launch_bounds__(kThreads)
    TopLogitsOfRows(const float* logits, int64_t n_vocab, int n_top, const RowDraw* draws,
                    Work work, float* top, int32_t* top_ids, RowSummary* summaries) {
  WaitForPrevious();
  extern __shared__ double scaled[];  // [n_chunks]
  __shared__ Shared<kMergeItems> shared;
  const int64_t row = blockIdx.x;
  const RowDraw draw = draws[row];
  const ChunkSums* sums = work.sums + row * work.n_chunks;
  int bad = kNone;
  float max = -kInfinity;
  for (int c = threadIdx.x; c < work.n_chunks; c += kThreads) {
    bad = min(bad, sums[c].bad);
    max = fmaxf(max, sums[c].max);
  }
  max = ForAll(ReduceFloat(shared.floats).Reduce(max, Larger()));
  bad = ForAll(ReduceInt(shared.ints).Reduce(bad, Smaller()));
  RowSummary summary = {.max = max, .drawn_logit = 0, .bad = bad == kNone ? -1 : bad, .drawn = -1};
  if (summary.bad < 0 && max > -kInfinity) {
    for (int c = threadIdx.x; c < work.n_chunks; c += kThreads) {
      if (sums[c].max == -kInfinity) {
        scaled[c] = 0;
        continue;
      }
      summary.sum += sums[c].sum * exp(static_cast<double>(sums[c].max) - max);
      scaled[c] = sums[c].sum_at_temperature * Weight(sums[c].max, max, draw.temperature);
      summary.sum_at_temperature += scaled[c];
    }
    summary.sum = ReduceDouble(shared.doubles).Sum(summary.sum);
    __syncthreads();
    summary.sum_at_temperature =
        ForAll(ReduceDouble(shared.doubles).Sum(summary.sum_at_temperature));
    summary.drawn = Draw(logits + row * n_vocab, n_vocab, draw, max,
                         draw.uniform * summary.sum_at_temperature, scaled, work.n_chunks, shared);
  }
  if (threadIdx.x == 0) {
    if (summary.drawn >= 0) summary.drawn_logit = logits[row * n_vocab + summary.drawn];
    summaries[row] = summary;
  }
  __syncthreads();
  const int64_t first = row * work.n_chunks * n_top;
  MergeTops<kSort>(work.top + first, work.top_ids + first, work.n_chunks * n_top, n_top,
                   top + row * n_top, top_ids + row * n_top, shared);
}

Work CutWork(WorkspaceCutter& cutter, int64_t n_rows, int n_chunks, int n_top) {
  Work work = {.n_chunks = n_chunks};
  work.sums = cutter.Take<ChunkSums>(n_rows * n_chunks);
  work.top = cutter.Take<float>(n_rows * n_chunks * n_top);
  work.top_ids = cutter.Take<int32_t>(n_rows * n_chunks * n_top);
  return work;
}

template <bool kSort>
void LaunchBoth(const Gpu& gpu, const TopLogitsArgs& args, int64_t first, int64_t n, Work work) {
  const float* logits = args.logits + first * args.n_vocab;
  const RowDraw* draws = args.draws + first;
  Launch(gpu, TopLogitsOfChunks<kSort>,
         {"TopLogitsOfChunks", dim3(work.n_chunks, n), kThreads, 0, kOverlaps}, logits,
         args.n_vocab, args.n_top, draws, work);
  Launch(gpu, TopLogitsOfRows<kSort>,
         {"TopLogitsOfRows", dim3(n), kThreads, work.n_chunks * sizeof(double), kOverlaps}, logits,
         args.n_vocab, args.n_top, draws, work, args.top + first * args.n_top,
         args.top_ids + first * args.n_top, args.summaries + first);
}

}  // namespace

void TopLogits(const TopLogitsArgs& args, const Stream& stream) {
  const Gpu& gpu = GpuOf(stream);
  const auto n_chunks = static_cast<int>(CeilDiv(args.n_vocab, kChunk));
  constexpr int64_t kRowsMax = 65535;  // of a grid's second dimension
  int64_t rows = std::min(args.n_rows, kRowsMax);
  for (; rows > 0; rows /= 2) {
    WorkspaceCutter count(nullptr);
    CutWork(count, rows, n_chunks, args.n_top);
    if (count.bytes() <= gpu.workspace_bytes()) break;
  }
  LEXICO_CHECK_GT(rows, int64_t{0});
  WorkspaceCutter cutter(gpu.workspace());
  const Work work = CutWork(cutter, rows, n_chunks, args.n_top);
  for (int64_t first = 0; first < args.n_rows; first += rows) {
    const int64_t n = std::min(rows, args.n_rows - first);
    args.n_top == 1 ? LaunchBoth<false>(gpu, args, first, n, work)
                    : LaunchBoth<true>(gpu, args, first, n, work);
  }
}

}  // namespace lexico::kernels::cuda

// Decode attention over codes: which kernels run. For the paper's codes; those of other profiles:
// sparse_family.cu.
//
// Five kernels a wave (sparse_attention_plan.h), each a grid over all its items:
//
//   Table     table = scale * q D_k^T; D_k is read once for 8 items
//   Score     scores of all tokens, by look-ups in the table; of each tile its maximum and its sum
//             of exponentials
//   Value     z[a] = sum_t p[t] c, by additions to shared memory
//   Multiply  z D_v by ranges of atoms; D_v is read once for 4 items
//   Finish    ranges added; outputs
//
// Work map, shared memory and barriers of each: beside the kernels (sparse_attention_*.cuh). Score
// and Value have one block of 1,024 threads a multiprocessor, with 4 * lanes bytes of shared memory
// an atom: 64 KiB at 4096 atoms and 4 heads; groups of more than 4 query heads are several items.
// Their one barrier stands between filling shared memory and using it (Value: another before z
// leaves it).
//
// Scores are kept, 4 * lanes bytes a token and item, because p needs the maximum over all tokens.
// With it and the sum known, z is added in 32-bit integers whose unit follows from them: the
// hardware adds integers in shared memory without a loop, no order of additions changes the sum,
// and a unit is 2^-29 or less of the largest sum that the codes could have, so z is as exact as a
// sum in F32 (each of n additions is off by at most half a unit; F32 rounds each partial sum to
// 2^-24 of itself). Tokens whose products would all round to 0 are left out, which changes nothing.
//
// Each starts while the one before it ends (overlap.cuh): Table with the rows of D_k at hand, Score
// and Value with their share of the work.
//
// Deterministic: the same bits on every run, whatever else is in the batch and however many
// multiprocessors there are.
//
// Measured, H100 80GB, 28 Nov 2026, 32 query and 8 KV heads of 128, 4096 atoms, sparsity 16, us a
// call (dense bf16 of cuDNN in the same run or, marked *, the day before): 1 x 131,072 tokens 87
// (187*), 16 x 131,072 1,189 (2,745), 8 x 32,768 177 (359*), 1 x 32,768 46 (55*), 1 x 4,096 32
// (13*). In the form before, 85 us at 1 x 131,072, Value was bound by instructions (75 % of the
// cycles) and Score by shared memory and DRAM (62 % each); short sequences are bound by the latency
// of five kernels. All before launches overlapped (overlap.cuh). More, and what was tried
// and dropped: docs/adr/0007-cuda-kernels.md.
#include <algorithm>
#include <type_traits>

#include "kernels/cuda/dictionary.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sparse_attention.h"
#include "kernels/cuda/sparse_attention_products.cuh"
#include "kernels/cuda/sparse_attention_scores.cuh"
#include "kernels/cuda/sparse_attention_values.cuh"
#include "kernels/cuda/sparse_family.h"

namespace lexico::kernels::cuda {
namespace {

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

template <typename Body>
void WithRun(int run, const Body& body) {
  if (run == 8) return body(Constant<8>());
  if (run == 4) return body(Constant<4>());
  return body(Constant<1>());
}

template <int kLanes>
void RunWave(const SparseAttentionArgs& args, const Gpu& gpu, const SparsePlan& plan,
             const SparseArrays& arrays) {
  const Dictionary& dictionary_k = AsCuda(*args.dictionary_k);
  const Dictionary& dictionary_v = AsCuda(*args.dictionary_v);
  const int n_heads = static_cast<int>(args.q.dim(1));
  const int head_dim = args.layout.head_dim;
  const int n_atoms_k = dictionary_k.n_atoms();
  const int n_atoms_v = dictionary_v.n_atoms();
  const int stride = dictionary_k.row_stride();
  const CodePages keys(args.pages, args.page_offset, args.layout, false);
  const CodePages values(args.pages, args.page_offset, args.layout, true);
  const int64_t n_ranges = CeilDiv(n_atoms_v, kRangeAtoms);
  const size_t lane_bytes = kLanes * sizeof(float);

  Launch(gpu, TableKernel<kLanes>,
         {"SparseAttention Table",
          dim3(CeilDiv(std::max(n_atoms_k, n_atoms_v), kTableAtoms),
               CeilDiv(plan.n_wave_items(), kTableItems)),
          kTableItems * kWarp,
          sizeof(float) * (kTableAtoms * (stride + 4) + kTableItems * kLanes * stride), kOverlaps},
         plan, args.q.as<float>(), args.scale, n_heads, head_dim, dictionary_k.rows(), stride,
         n_atoms_k, n_atoms_v, arrays);
  const dim3 blocks(plan.n_blocks());
  if (plan.n_blocks() > 0) {
    WithRun(keys.RunLength(), [&](auto run) {
      Launch(gpu, ScoreKernel<kLanes, run()>,
             {"SparseAttention Score", blocks, kTileThreads, lane_bytes * n_atoms_k, kOverlaps},
             plan, keys, values, n_atoms_k, arrays);
    });
    WithRun(values.RunLength(), [&](auto run) {
      Launch(gpu, ValueKernel<kLanes, run()>,
             {"SparseAttention Value", blocks, kTileThreads, lane_bytes * n_atoms_v, kOverlaps},
             plan, values, n_atoms_v, arrays);
    });
  }
  Launch(gpu, MultiplyKernel<kLanes>,
         {"SparseAttention Multiply",
          dim3(n_ranges, CeilDiv(plan.n_wave_items(), kMultiplyItems),
               CeilDiv(dictionary_v.row_stride(), kMultiplyColumns)),
          kMultiplyWarps * kWarp, 0, kOverlaps},
         plan, dictionary_v.rows(), dictionary_v.row_stride(), n_atoms_v, head_dim, arrays);
  Launch(gpu, FinishKernel<kLanes>,
         {"SparseAttention Finish", dim3(plan.n_wave_items(), kLanes),
          static_cast<int>(CeilDiv(head_dim, kWarp)) * kWarp, 0, kOverlaps},
         plan, n_heads, head_dim, static_cast<int>(n_ranges), arrays, args.out.as_mutable<float>(),
         args.max_score.as_mutable<float>(), args.sum_exp.as_mutable<float>());
}

}  // namespace

void SparseAttention(const SparseAttentionArgs& args, const Stream& stream) {
  if (!args.layout.is_paper()) return SparseFamilyAttention(args, stream);
  const Gpu& gpu = GpuOf(stream);
  const int group = static_cast<int>(args.q.dim(1)) / args.layout.n_kv_heads;
  const int n_atoms = std::max(args.dictionary_k->n_atoms(), args.dictionary_v->n_atoms());
  const int lanes = LanesFor(group, n_atoms, gpu.shared_bytes_max());
  SparsePlanner planner(args, lanes, gpu.n_multiprocessors(), gpu.workspace_bytes());
  SparsePlan plan;
  while (planner.Next(plan)) {
    const SparseArrays arrays = planner.Arrays(plan, gpu.workspace());
    if (lanes == 4) {
      RunWave<4>(args, gpu, plan, arrays);
    } else if (lanes == 2) {
      RunWave<2>(args, gpu, plan, arrays);
    } else {
      RunWave<1>(args, gpu, plan, arrays);
    }
  }
}

}  // namespace lexico::kernels::cuda

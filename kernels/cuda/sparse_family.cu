// Decode attention over codes of any profile (docs/adr/0015-profile-family.md): which kernels run.
// The paper's codes have kernels of their own (sparse_attention.cu), with the same plan:
//
//   Table     of keys with atoms only: table = scale * q D_k^T
//   Score     scores, by look-ups and products of signs; the item's sums are set to 0
//   Value     z and rotated, in integers
//   Multiply  of values with atoms only: z D_v by ranges of atoms
//   Finish    ranges added, rotated turned back; outputs
//
// Work map, shared memory and barriers of each: sparse_family_{scores,values}.cuh and
// sparse_attention_products.cuh. The kernels take every member: what differs are loops over a
// token's atoms and planes, and they branch on the code, which all tokens have alike.
//
// Deterministic, as sparse_attention.cu: a tile's sums have the order of its tokens, and what is
// added over tiles are integers.
//
// Not measured yet. Counts and what they make one expect: docs/adr/0018-family-on-a-gpu.md.
#include <algorithm>

#include "kernels/cuda/dictionary.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sparse_attention_products.cuh"
#include "kernels/cuda/sparse_family.h"
#include "kernels/cuda/sparse_family_scores.cuh"
#include "kernels/cuda/sparse_family_values.cuh"

namespace lexico::kernels::cuda {
namespace {

// What the kernels declare, and the largest that they ask for beside tables.
constexpr size_t kOtherSharedBytes =
    sizeof(RotatedQueries<kLanesMax>) +
    sizeof(uint2) * kWarp * (base::kHeadDimMax / 16) * kLevelTermsMax + 1024;

template <int kLanes>
class FamilyWave {
 public:
  FamilyWave(const SparseAttentionArgs& args, const Gpu& gpu, const SparsePlan& plan,
             const SparseArrays& arrays)
      : args_(args),
        gpu_(gpu),
        plan_(plan),
        arrays_(arrays),
        dictionary_k_(args.layout.sparsity_k > 0 ? &AsCuda(*args.dictionary_k) : nullptr),
        dictionary_v_(args.layout.sparsity_v > 0 ? &AsCuda(*args.dictionary_v) : nullptr),
        keys_(args.pages, args.page_offset, args.layout, false),
        values_(args.pages, args.page_offset, args.layout, true) {}

  void Run() const {
    if (dictionary_k_ != nullptr) Table();
    if (plan_.n_blocks() > 0) ScoreAndValue();
    if (dictionary_v_ != nullptr) Multiply();
    Finish();
  }

 private:
  static constexpr size_t kLaneBytes = kLanes * sizeof(float);

  int n_heads() const { return static_cast<int>(args_.q.dim(1)); }
  int head_dim() const { return args_.layout.head_dim; }
  static int Atoms(const Dictionary* dictionary) {
    return dictionary == nullptr ? 0 : dictionary->n_atoms();
  }
  int n_ranges() const { return static_cast<int>(CeilDiv(Atoms(dictionary_v_), kRangeAtoms)); }

  void Table() const {
    const int n_atoms = dictionary_k_->n_atoms();
    const int stride = dictionary_k_->row_stride();
    Launch(
        gpu_, TableKernel<kLanes>,
        {"SparseAttention Table",
         dim3(CeilDiv(n_atoms, kTableAtoms), CeilDiv(plan_.n_wave_items(), kTableItems)),
         kTableItems * kWarp,
         sizeof(float) * (kTableAtoms * (stride + 4) + kTableItems * kLanes * stride), kOverlaps},
        plan_, args_.q.as<float>(), args_.scale, n_heads(), head_dim(), dictionary_k_->rows(),
        stride, n_atoms, /*n_atoms_v=*/0, arrays_);
  }

  void ScoreAndValue() const {
    const dim3 blocks(plan_.n_blocks());
    const int n_atoms_k = Atoms(dictionary_k_);
    const int n_atoms_v = Atoms(dictionary_v_);
    const size_t rotated = values_.residual_bits > 0 ? PaddedDim(head_dim()) : 0;
    Launch(gpu_, ScoreFamilyKernel<kLanes>,
           {"SparseAttention ScoreFamily", blocks, kTileThreads,
            QueryPiecesBytes(keys_) + kLaneBytes * n_atoms_k, kOverlaps},
           plan_, keys_, values_, args_.q.as<float>(), args_.scale, n_heads(), n_atoms_k, n_atoms_v,
           arrays_);
    Launch(gpu_, ValueFamilyKernel<kLanes>,
           {"SparseAttention ValueFamily", blocks, kTileThreads, kLaneBytes * (n_atoms_v + rotated),
            kOverlaps},
           plan_, values_, n_atoms_v, arrays_);
  }

  void Multiply() const {
    Launch(gpu_, MultiplyKernel<kLanes>,
           {"SparseAttention Multiply",
            dim3(n_ranges(), CeilDiv(plan_.n_wave_items(), kMultiplyItems),
                 CeilDiv(dictionary_v_->row_stride(), kMultiplyColumns)),
            kMultiplyWarps * kWarp, 0, kOverlaps},
           plan_, dictionary_v_->rows(), dictionary_v_->row_stride(), dictionary_v_->n_atoms(),
           head_dim(), arrays_);
  }

  void Finish() const {
    Launch(gpu_, FinishFamilyKernel<kLanes>,
           {"SparseAttention FinishFamily", dim3(plan_.n_wave_items(), kLanes),
            static_cast<int>(CeilDiv(head_dim(), kWarp)) * kWarp, 0, kOverlaps},
           plan_, n_heads(), head_dim(), n_ranges(), values_.residual_bits > 0, arrays_,
           args_.out.as_mutable<float>(), args_.max_score.as_mutable<float>(),
           args_.sum_exp.as_mutable<float>());
  }

  const SparseAttentionArgs& args_;
  const Gpu& gpu_;
  const SparsePlan& plan_;
  const SparseArrays& arrays_;
  const Dictionary* const dictionary_k_;
  const Dictionary* const dictionary_v_;
  const FamilyPages keys_;
  const FamilyPages values_;
};

}  // namespace

void SparseFamilyAttention(const SparseAttentionArgs& args, const Stream& stream) {
  const Gpu& gpu = GpuOf(stream);
  const int group = static_cast<int>(args.q.dim(1)) / args.layout.n_kv_heads;
  int n_atoms = 0;
  if (args.layout.sparsity_k > 0) n_atoms = args.dictionary_k->n_atoms();
  if (args.layout.sparsity_v > 0) n_atoms = std::max(n_atoms, args.dictionary_v->n_atoms());
  const int lanes = LanesFor(group, n_atoms, gpu.shared_bytes_max(), kOtherSharedBytes);
  SparsePlanner planner(args, lanes, gpu.n_multiprocessors(), gpu.workspace_bytes());
  SparsePlan plan;
  while (planner.Next(plan)) {
    const SparseArrays arrays = planner.Arrays(plan, gpu.workspace());
    if (lanes == 4) {
      FamilyWave<4>(args, gpu, plan, arrays).Run();
    } else if (lanes == 2) {
      FamilyWave<2>(args, gpu, plan, arrays).Run();
    } else {
      FamilyWave<1>(args, gpu, plan, arrays).Run();
    }
  }
}

}  // namespace lexico::kernels::cuda

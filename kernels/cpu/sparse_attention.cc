// Decode attention over codes: what runs when.
//
// An item is (sequence, KV head, up to 16 of its query heads). Its tokens are cut into splits of
// kSplitTokens, a constant, so that sums are grouped the same way on one thread and on sixty.
//
//   phase 1  table = scale * q D_k^T           parallel over panels of atoms, all items at once:
//                                              D_k is read once a wave
//            and, of a residual, tables of signed sums (sparse_residual_kernels.h)
//   phase 2  scores, softmax, z of one split   parallel over splits; table and z are 64 KiB each
//                                              at 4096 atoms and 4 heads, so both stay in L2
//   phase 3  z of the splits merged, z D_v     parallel over ranges of atoms; D_v is read once
//   phase 4  ranges added in order, and residuals of values, merged and rotated back
//
// z is merged instead of out because z D_v costs as much as 2 * head_dim / sparsity codes an atom:
// one product per item, not one per split.
//
// Sequences are taken in waves, so that z of all splits together stays within kWaveBytes.
#include "kernels/cpu/sparse_attention.h"

#include <hwy/aligned_allocator.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/dictionary.h"
#include "kernels/cpu/rotation.h"
#include "kernels/cpu/sparse_attention_kernels.h"
#include "kernels/cpu/sparse_residual_kernels.h"
#include "proto/base/limits.h"

namespace lexico::kernels::cpu {
namespace {

// About as many codes as atoms twenty times over at sparsity 16: zeroing and merging z (n_atoms
// entries) stays under a tenth of the work of a split.
constexpr int64_t kSplitTokens = 4096;
constexpr size_t kWaveBytes = size_t{64} << 20;
constexpr int kPanelsPerTask = 8;
constexpr int kAtomsPerRange = 512;

using Floats = hwy::AlignedFreeUniquePtr<float[]>;

// Null for none.
Floats NewFloats(size_t n) { return n == 0 ? Floats() : hwy::AllocateAligned<float>(n); }

struct Item {
  int64_t seq;
  int kv_head;
  int64_t first_head;  // index among all query heads
  int n_heads;         // 1 .. kGroupLanesMax
  int first_split;     // index into the wave's splits
  int n_splits;
};

struct Split {
  int item;
  int64_t page_begin;
  int64_t n_pages;
};

int CeilDiv(int a, int b) { return (a + b - 1) / b; }

int LanesFor(int n_heads) {
  int lanes = 1;
  while (lanes < n_heads) lanes *= 2;
  return lanes;
}

class Wave {
 public:
  Wave(const SparseAttentionArgs& args, int threads)
      : args_(args),
        dictionary_k_(AtomsOf(args.layout.sparsity_k, args.dictionary_k)),
        dictionary_v_(AtomsOf(args.layout.sparsity_v, args.dictionary_v)),
        threads_(threads),
        head_dim_(static_cast<int>(args.q.dim(2))),
        group_(static_cast<int>(args.q.dim(1)) / args.layout.n_kv_heads),
        lanes_(LanesFor(std::min(group_, kGroupLanesMax))),
        pages_per_split_(std::max<int64_t>(1, kSplitTokens / args.layout.page_tokens)),
        table_floats_(Panels(dictionary_k_) * kPanelAtoms * lanes_),
        weight_floats_(Panels(dictionary_v_) * kPanelAtoms * lanes_),
        residual_table_floats_(
            args.layout.code(false).has_residual() ? ResidualTableFloats(head_dim_, lanes_) : 0),
        residual_sum_floats_(
            args.layout.code(true).has_residual() ? static_cast<size_t>(lanes_) * head_dim_ : 0) {}

  // Takes sequences from `seq` on while they fit; returns the first that is left.
  int64_t Take(int64_t seq) {
    items_.clear();
    splits_.clear();
    const int64_t n_seqs = args_.q.dim(0);
    for (; seq < n_seqs; ++seq) {
      const int64_t n_pages = args_.PagesEnd(seq) - args_.page_begin[seq];
      if (n_pages == 0) {
        WriteEmpty(seq);
        continue;
      }
      const int64_t n_splits = (n_pages + pages_per_split_ - 1) / pages_per_split_;
      const size_t bytes = (splits_.size() + n_splits * ItemsPerSequence()) *
                           (weight_floats_ + residual_sum_floats_) * sizeof(float);
      if (!items_.empty() && bytes > kWaveBytes) break;
      AddSequence(seq);
    }
    return seq;
  }

  void Run() {
    if (items_.empty()) return;
    Allocate();
    ScaleQueries();
    // One team for all phases: each loop ends with a barrier, which costs less than a new team.
#pragma omp parallel num_threads(threads_)
    {
      FillTables();
      RunSplits();
#pragma omp single
      SetFactors();
      MergeAndMultiply();
    }
    AddRanges();
  }

 private:
  // Null without atoms.
  static const AttentionAtoms* AtomsOf(int sparsity, const PreparedDictionary* dictionary) {
    return sparsity == 0 ? nullptr : &AsCpu(*dictionary).attention();
  }
  static size_t Panels(const AttentionAtoms* atoms) {
    return atoms == nullptr ? 0 : static_cast<size_t>(atoms->n_panels());
  }

  int ItemsPerSequence() const { return args_.layout.n_kv_heads * CeilDiv(group_, kGroupLanesMax); }

  void AddSequence(int64_t seq) {
    const int64_t begin = args_.page_begin[seq];
    const int64_t end = args_.PagesEnd(seq);
    for (int kv_head = 0; kv_head < args_.layout.n_kv_heads; ++kv_head) {
      for (int g = 0; g < group_; g += kGroupLanesMax) {
        Item item{.seq = seq,
                  .kv_head = kv_head,
                  .first_head = static_cast<int64_t>(kv_head) * group_ + g,
                  .n_heads = std::min(group_ - g, kGroupLanesMax),
                  .first_split = static_cast<int>(splits_.size()),
                  .n_splits = 0};
        for (int64_t p = begin; p < end; p += pages_per_split_) {
          splits_.push_back({.item = static_cast<int>(items_.size()),
                             .page_begin = p,
                             .n_pages = std::min(pages_per_split_, end - p)});
          ++item.n_splits;
        }
        items_.push_back(item);
      }
    }
  }

  void WriteEmpty(int64_t seq) {
    const int64_t n_heads = args_.q.dim(1);
    std::fill_n(args_.out.as_mutable<float>() + seq * n_heads * head_dim_, n_heads * head_dim_,
                0.0f);
    std::fill_n(args_.max_score.as_mutable<float>() + seq * n_heads, n_heads,
                -std::numeric_limits<float>::infinity());
    std::fill_n(args_.sum_exp.as_mutable<float>() + seq * n_heads, n_heads, 0.0f);
  }

  void Allocate() {
    if (dictionary_v_ != nullptr) {
      n_ranges_ = CeilDiv(dictionary_v_->n_atoms(), kAtomsPerRange);
      out_floats_ = static_cast<size_t>(lanes_) * dictionary_v_->row_stride();
    }
    q_ = NewFloats(items_.size() * lanes_ * head_dim_);
    tables_ = NewFloats(items_.size() * table_floats_);
    weights_ = NewFloats(splits_.size() * weight_floats_);
    max_ = NewFloats(splits_.size() * lanes_);
    sum_ = NewFloats(splits_.size() * lanes_);
    partial_ = NewFloats(n_ranges_ * items_.size() * out_floats_);
    residual_tables_ = NewFloats(items_.size() * residual_table_floats_);
    residual_sums_ = NewFloats(splits_.size() * residual_sum_floats_);
  }

  void ScaleQueries() {
    for (size_t i = 0; i < items_.size(); ++i) {
      const Item& item = items_[i];
      const float* from =
          args_.q.as<float>() + (item.seq * args_.q.dim(1) + item.first_head) * head_dim_;
      float* to = q_.get() + i * lanes_ * head_dim_;
      for (int n = 0; n < item.n_heads * head_dim_; ++n) to[n] = args_.scale * from[n];
      std::fill(to + item.n_heads * head_dim_, to + lanes_ * head_dim_, 0.0f);
    }
  }

  // This and the two loops after it are run by every thread of a team, which shares their work.
  void FillTables() {
    if (residual_table_floats_ > 0) {
#pragma omp for schedule(static)
      for (size_t i = 0; i < items_.size(); ++i) {
        FillResidualTable(q_.get() + i * lanes_ * head_dim_, head_dim_, lanes_,
                          residual_tables_.get() + i * residual_table_floats_);
      }
    }
    const int n_panels = static_cast<int>(Panels(dictionary_k_));
    const int n_tasks = CeilDiv(n_panels, kPanelsPerTask);
#pragma omp for schedule(static)
    for (int task = 0; task < n_tasks; ++task) {
      const int end = std::min((task + 1) * kPanelsPerTask, n_panels);
      for (int panel = task * kPanelsPerTask; panel < end; ++panel) {
        for (size_t i = 0; i < items_.size(); ++i) {
          FillTable(*dictionary_k_, q_.get() + i * lanes_ * head_dim_, lanes_, panel, panel + 1,
                    tables_.get() + i * table_floats_);
        }
      }
    }
  }

  void RunSplits() {
    const size_t score_floats = ScoreFloats(pages_per_split_ * args_.layout.page_tokens, lanes_);
    const Floats scores = hwy::AllocateAligned<float>(score_floats);
#pragma omp for schedule(dynamic)
    for (size_t s = 0; s < splits_.size(); ++s) RunSplit(s, scores.get());
  }

  void RunSplit(size_t s, float* scores) {
    const Split& split = splits_[s];
    const Item& item = items_[split.item];
    const PageList pages = {args_.pages + split.page_begin, args_.page_offset};
    const int64_t n_tokens = split.n_pages * args_.layout.page_tokens;
    ScorePages(pages, split.n_pages, args_.layout, item.kv_head,
               tables_.get() + split.item * table_floats_, lanes_, scores);
    if (residual_table_floats_ > 0) {
      AddResidualScores(pages, split.n_pages, args_.layout, item.kv_head,
                        residual_tables_.get() + split.item * residual_table_floats_, lanes_,
                        scores);
    }
    SoftmaxInPlace(scores, n_tokens, lanes_, max_.get() + s * lanes_, sum_.get() + s * lanes_);
    if (weight_floats_ > 0) {
      float* weights = weights_.get() + s * weight_floats_;
      std::memset(weights, 0, weight_floats_ * sizeof(float));
      AddWeights(pages, split.n_pages, args_.layout, item.kv_head, scores, lanes_, weights);
    }
    if (residual_sum_floats_ > 0) {
      float* sums = residual_sums_.get() + s * residual_sum_floats_;
      std::fill_n(sums, residual_sum_floats_, 0.0f);
      AddResidualValues(pages, split.n_pages, args_.layout, item.kv_head, scores, lanes_, sums);
    }
  }

  // factors_[s, g] = exp(max of split s - max of its item); writes max_score and sum_exp.
  void SetFactors() {
    factors_.resize(splits_.size() * lanes_);
    for (const Item& item : items_) SetFactors(item);
  }

  void SetFactors(const Item& item) {
    float* factors = factors_.data() + static_cast<size_t>(item.first_split) * lanes_;
    for (int g = 0; g < lanes_; ++g) {
      float max = -std::numeric_limits<float>::infinity();
      for (int s = 0; s < item.n_splits; ++s) {
        max = std::max(max, max_[(item.first_split + s) * lanes_ + g]);
      }
      float sum = 0;
      for (int s = 0; s < item.n_splits; ++s) {
        const float factor = std::exp(max_[(item.first_split + s) * lanes_ + g] - max);
        factors[s * lanes_ + g] = factor;
        sum += factor * sum_[(item.first_split + s) * lanes_ + g];
      }
      if (g >= item.n_heads) continue;
      const int64_t head = item.seq * args_.q.dim(1) + item.first_head + g;
      args_.max_score.as_mutable<float>()[head] = max;
      args_.sum_exp.as_mutable<float>()[head] = sum;
    }
  }

  void MergeAndMultiply() {
    const Floats merged = hwy::AllocateAligned<float>(static_cast<size_t>(kAtomsPerRange) * lanes_);
    std::vector<const float*> parts;
#pragma omp for schedule(static)
    for (int range = 0; range < n_ranges_; ++range) {
      const int begin = range * kAtomsPerRange;
      // Whole panels: weights past the last atom exist and are 0.
      const int n = std::min(kAtomsPerRange, dictionary_v_->n_panels() * kPanelAtoms - begin);
      for (size_t i = 0; i < items_.size(); ++i) {
        const Item& item = items_[i];
        parts.clear();
        for (int s = 0; s < item.n_splits; ++s) {
          parts.push_back(weights_.get() + (item.first_split + s) * weight_floats_ +
                          static_cast<size_t>(begin) * lanes_);
        }
        MergeWeights(parts.data(), factors_.data() + static_cast<size_t>(item.first_split) * lanes_,
                     item.n_splits, n, lanes_, merged.get());
        float* out = partial_.get() + (range * items_.size() + i) * out_floats_;
        std::fill_n(out, out_floats_, 0.0f);
        MultiplyWeights(*dictionary_v_, begin, std::min(n, dictionary_v_->n_atoms() - begin),
                        merged.get(), lanes_, out);
      }
    }
  }

  void AddRanges() {
    const size_t stride = out_floats_ / lanes_;
    for (size_t i = 0; i < items_.size(); ++i) {
      const Item& item = items_[i];
      float* out =
          args_.out.as_mutable<float>() + (item.seq * args_.q.dim(1) + item.first_head) * head_dim_;
      for (int g = 0; g < item.n_heads; ++g) {
        float* to = out + static_cast<size_t>(g) * head_dim_;
        if (n_ranges_ == 0) std::fill_n(to, head_dim_, 0.0f);
        for (int range = 0; range < n_ranges_; ++range) {
          const float* from =
              partial_.get() + (range * items_.size() + i) * out_floats_ + g * stride;
          for (int n = 0; n < head_dim_; ++n) to[n] = range == 0 ? from[n] : to[n] + from[n];
        }
        if (residual_sum_floats_ > 0) AddResidual(item, g, to);
      }
    }
  }

  // The residuals of head g's values, splits in order.
  void AddResidual(const Item& item, int g, float* to) const {
    std::array<float, base::kHeadDimMax> sum{};
    for (int s = item.first_split; s < item.first_split + item.n_splits; ++s) {
      const float factor = factors_[s * lanes_ + g];
      const float* from = residual_sums_.get() + s * residual_sum_floats_ + g * head_dim_;
      for (int n = 0; n < head_dim_; ++n) sum[n] += factor * from[n];
    }
    RotateBack(sum.data(), head_dim_);
    for (int n = 0; n < head_dim_; ++n) to[n] += sum[n];
  }

  const SparseAttentionArgs& args_;
  const AttentionAtoms* const dictionary_k_;
  const AttentionAtoms* const dictionary_v_;
  const int threads_;
  const int head_dim_;
  const int group_;  // query heads of a KV head
  const int lanes_;  // of one item, as sparse_attention_kernels.h uses the word
  const int64_t pages_per_split_;
  const size_t table_floats_;
  const size_t weight_floats_;
  const size_t residual_table_floats_;  // 0 without a residual
  const size_t residual_sum_floats_;
  int n_ranges_ = 0;
  size_t out_floats_ = 0;

  std::vector<Item> items_;
  std::vector<Split> splits_;
  std::vector<float> factors_;  // [n_splits, lanes]
  Floats q_;                    // [n_items, lanes, head_dim], scaled
  Floats tables_;               // [n_items, table_floats]
  Floats weights_;              // [n_splits, weight_floats]
  Floats max_;                  // [n_splits, lanes]
  Floats sum_;                  // [n_splits, lanes]
  Floats partial_;              // [n_ranges, n_items, lanes, row_stride]
  Floats residual_tables_;      // [n_items, residual_table_floats]
  Floats residual_sums_;        // [n_splits, lanes, head_dim], rotated
};

}  // namespace

void SparseAttention(const SparseAttentionArgs& args, const Stream& stream) {
  Wave wave(args, stream.threads());
  for (int64_t seq = 0; seq < args.q.dim(0);) {
    seq = wave.Take(seq);
    wave.Run();
  }
}

}  // namespace lexico::kernels::cpu

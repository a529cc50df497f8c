// Decode attention over codes: what runs when.
//
// An item is (sequence, KV head, up to 16 of its query heads). Its tokens are cut into splits of
// kSplitTokens, a constant, so that sums are grouped the same way on one thread and on sixty.
//
//   phase 1  table = scale * q D_k^T           parallel over panels of atoms, all items at once:
//                                              D_k is read once a wave
//   phase 2  scores, softmax, z of one split   parallel over splits; table and z are 64 KiB each
//                                              at 4096 atoms and 4 heads, so both stay in L2
//   phase 3  z of the splits merged, z D_v     parallel over ranges of atoms; D_v is read once
//   phase 4  ranges added in order
//
// z is merged instead of out because z D_v costs as much as 2 * head_dim / sparsity codes an atom:
// one product per item, not one per split.
//
// Sequences are taken in waves, so that z of all splits together stays within kWaveBytes.
#include "kernels/cpu/sparse_attention.h"

#include <hwy/aligned_allocator.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/dictionary.h"
#include "kernels/cpu/sparse_attention_kernels.h"

namespace lexico::kernels::cpu {
namespace {

// About as many codes as atoms twenty times over at sparsity 16: zeroing and merging z (n_atoms
// entries) stays under a tenth of the work of a split.
constexpr int64_t kSplitTokens = 4096;
constexpr size_t kWaveBytes = size_t{64} << 20;
constexpr int kPanelsPerTask = 8;
constexpr int kAtomsPerRange = 512;

using Floats = hwy::AlignedFreeUniquePtr<float[]>;

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
        dictionary_k_(AsCpu(*args.dictionary_k).attention()),
        dictionary_v_(AsCpu(*args.dictionary_v).attention()),
        threads_(threads),
        head_dim_(static_cast<int>(args.q.dim(2))),
        group_(static_cast<int>(args.q.dim(1)) / args.layout.n_kv_heads),
        lanes_(LanesFor(std::min(group_, kGroupLanesMax))),
        pages_per_split_(std::max<int64_t>(1, kSplitTokens / args.layout.page_tokens)),
        table_floats_(static_cast<size_t>(dictionary_k_.n_panels()) * kPanelAtoms * lanes_),
        weight_floats_(static_cast<size_t>(dictionary_v_.n_panels()) * kPanelAtoms * lanes_) {}

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
      const size_t bytes =
          (splits_.size() + n_splits * ItemsPerSequence()) * weight_floats_ * sizeof(float);
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
    n_ranges_ = CeilDiv(dictionary_v_.n_atoms(), kAtomsPerRange);
    out_floats_ = static_cast<size_t>(lanes_) * dictionary_v_.row_stride();
    q_ = hwy::AllocateAligned<float>(items_.size() * lanes_ * head_dim_);
    tables_ = hwy::AllocateAligned<float>(items_.size() * table_floats_);
    weights_ = hwy::AllocateAligned<float>(splits_.size() * weight_floats_);
    max_ = hwy::AllocateAligned<float>(splits_.size() * lanes_);
    sum_ = hwy::AllocateAligned<float>(splits_.size() * lanes_);
    partial_ = hwy::AllocateAligned<float>(n_ranges_ * items_.size() * out_floats_);
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
    const int n_tasks = CeilDiv(dictionary_k_.n_panels(), kPanelsPerTask);
#pragma omp for schedule(static)
    for (int task = 0; task < n_tasks; ++task) {
      const int end = std::min((task + 1) * kPanelsPerTask, dictionary_k_.n_panels());
      for (int panel = task * kPanelsPerTask; panel < end; ++panel) {
        for (size_t i = 0; i < items_.size(); ++i) {
          FillTable(dictionary_k_, q_.get() + i * lanes_ * head_dim_, lanes_, panel, panel + 1,
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
    SoftmaxInPlace(scores, n_tokens, lanes_, max_.get() + s * lanes_, sum_.get() + s * lanes_);
    float* weights = weights_.get() + s * weight_floats_;
    std::memset(weights, 0, weight_floats_ * sizeof(float));
    AddWeights(pages, split.n_pages, args_.layout, item.kv_head, scores, lanes_, weights);
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
      const int n = std::min(kAtomsPerRange, dictionary_v_.n_panels() * kPanelAtoms - begin);
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
        MultiplyWeights(dictionary_v_, begin, std::min(n, dictionary_v_.n_atoms() - begin),
                        merged.get(), lanes_, out);
      }
    }
  }

  void AddRanges() {
    const size_t stride = dictionary_v_.row_stride();
    for (size_t i = 0; i < items_.size(); ++i) {
      const Item& item = items_[i];
      float* out =
          args_.out.as_mutable<float>() + (item.seq * args_.q.dim(1) + item.first_head) * head_dim_;
      for (int g = 0; g < item.n_heads; ++g) {
        float* to = out + static_cast<size_t>(g) * head_dim_;
        for (int range = 0; range < n_ranges_; ++range) {
          const float* from =
              partial_.get() + (range * items_.size() + i) * out_floats_ + g * stride;
          for (int n = 0; n < head_dim_; ++n) to[n] = range == 0 ? from[n] : to[n] + from[n];
        }
      }
    }
  }

  const SparseAttentionArgs& args_;
  const AttentionAtoms& dictionary_k_;
  const AttentionAtoms& dictionary_v_;
  const int threads_;
  const int head_dim_;
  const int group_;  // query heads of a KV head
  const int lanes_;  // of one item, as sparse_attention_kernels.h uses the word
  const int64_t pages_per_split_;
  const size_t table_floats_;
  const size_t weight_floats_;
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

#include "kernels/cuda/sparse_attention_plan.h"

#include <algorithm>
#include <limits>

#include "kernels/cuda/residual_bits.h"
#include "proto/base/check.h"

namespace lexico::kernels::cuda {
namespace {

// A block's fixed work (its table or its sums, 64 KiB at 4096 atoms and 4 heads), in tokens.
constexpr int64_t kBlockFixedTokens = 512;
constexpr int kRoundsMax = 4;
// Shares of 16/16, 17/16, ... of an even one are tried.
constexpr int kSlackUnit = 16;
constexpr int kSlackMax = 5;

}  // namespace

SparseArrays::SparseArrays(WorkspaceCutter& cutter, const SparseSizes& sizes, int64_t n_items,
                           int64_t n_tiles, int64_t n_tokens)
    : tables(cutter.Take<float>(n_items * sizes.n_atoms_k * sizes.lanes)),
      scores(cutter.Take<float>(n_tokens * sizes.lanes)),
      tiles(cutter.Take<HeadSums>(n_tiles * sizes.lanes)),
      largest(cutter.Take<uint32_t>(n_tiles)),
      z(cutter.Take<int32_t>(n_items * sizes.n_atoms_v * sizes.lanes)),
      heads(cutter.Take<HeadSums>(n_items * sizes.lanes)),
      units(cutter.Take<float>(n_items * sizes.lanes)),
      partial(cutter.Take<float>(CeilDiv(sizes.n_atoms_v, kRangeAtoms) * n_items * sizes.lanes *
                                 sizes.head_dim)),
      rotated(cutter.Take<int32_t>(n_items * sizes.rotated_dim * sizes.lanes)),
      rotated_units(cutter.Take<float>(sizes.rotated_dim > 0 ? n_items * sizes.lanes : 0)) {}

int LanesFor(int group, int n_atoms, size_t shared_bytes_max, size_t other_bytes) {
  int lanes = group >= 3 ? 4 : group;
  while (lanes > 1 && lanes * sizeof(float) * n_atoms + other_bytes > shared_bytes_max) lanes /= 2;
  return lanes;
}

SparsePlanner::SparsePlanner(const SparseAttentionArgs& args, int lanes, int n_multiprocessors,
                             size_t workspace_bytes)
    : args_(args),
      sizes_{.lanes = lanes,
             .n_atoms_k = args.layout.sparsity_k > 0 ? args.dictionary_k->n_atoms() : 0,
             .n_atoms_v = args.layout.sparsity_v > 0 ? args.dictionary_v->n_atoms() : 0,
             .head_dim = args.layout.head_dim,
             .rotated_dim =
                 args.layout.code(true).has_residual() ? PaddedDim(args.layout.head_dim) : 0},
      n_multiprocessors_(n_multiprocessors),
      workspace_bytes_(workspace_bytes),
      items_per_head_(static_cast<int>(CeilDiv(args.q.dim(1) / args.layout.n_kv_heads, lanes))),
      items_per_seq_(items_per_head_ * args.layout.n_kv_heads) {}

// Follows from the sequence and the pages that it may have alone, so that its results do.
int SparsePlanner::TilePages(int64_t seq) const {
  const int64_t n_pages = args_.page_begin[seq + 1] - args_.page_begin[seq];
  int pages = std::clamp(kTileTokens / args_.layout.page_tokens, 1, kTilePagesMax);
  while (pages * 2 <= kTilePagesMax && CeilDiv(n_pages, pages) > kTilesWanted) pages *= 2;
  return pages;
}

int64_t SparsePlanner::TilesOf(int64_t seq) const {
  return CeilDiv(args_.page_begin[seq + 1] - args_.page_begin[seq], TilePages(seq));
}

size_t SparsePlanner::BytesFor(int64_t n_items, int64_t n_tiles, int64_t n_tokens) const {
  WorkspaceCutter cutter(nullptr);
  SparseArrays(cutter, sizes_, n_items, n_tiles, n_tokens);
  return cutter.bytes();
}

bool SparsePlanner::Next(SparsePlan& plan) {
  if (next_seq_ == args_.q.dim(0)) return false;
  plan.first_seq = next_seq_;
  plan.first_item = next_item_;
  plan.items_per_head = items_per_head_;
  plan.group = static_cast<int>(args_.q.dim(1)) / args_.layout.n_kv_heads;
  plan.page_tokens = args_.layout.page_tokens;
  plan.n_pages = args_.n_pages;
  TakeSequences(plan);
  SpreadPages(plan);
  return true;
}

void SparsePlanner::TakeSequences(SparsePlan& plan) {
  plan.n_seqs = 0;
  plan.n_items = items_per_seq_ - next_item_;
  plan.page_begin[0] = args_.page_begin[next_seq_];
  plan.tile_begin[0] = 0;
  while (plan.n_seqs < kWaveSequences && next_seq_ < args_.q.dim(0)) {
    const int64_t n_tiles = plan.tile_begin[plan.n_seqs] + TilesOf(next_seq_);
    const int64_t n_tokens =
        (args_.page_begin[next_seq_ + 1] - plan.page_begin[0]) * args_.layout.page_tokens;
    LEXICO_CHECK_LE(n_tiles, std::numeric_limits<int>::max() / items_per_seq_);
    const auto fits = [&](int64_t items) {
      return BytesFor((plan.n_seqs + 1) * items, n_tiles * items, n_tokens * items) <=
             workspace_bytes_;
    };
    if (!fits(plan.n_items)) {
      if (plan.n_seqs > 0) break;
      // Not even alone: fewer of its items.
      while (plan.n_items > 1 && !fits(plan.n_items)) plan.n_items = (plan.n_items + 1) / 2;
      if (!fits(plan.n_items)) {
        // One item of this sequence needs more than the workspace (CudaOptions::workspace_bytes).
        LEXICO_CHECK_LE(BytesFor(1, n_tiles, n_tokens), workspace_bytes_);
      }
    }
    plan.tile_pages[plan.n_seqs] = TilePages(next_seq_);
    plan.n_seqs += 1;
    plan.page_begin[plan.n_seqs] = args_.page_begin[next_seq_ + 1];
    plan.tile_begin[plan.n_seqs] = static_cast<int>(n_tiles);
    // A sequence taken in part is alone in its waves.
    const bool in_part = next_item_ > 0 || plan.n_items < items_per_seq_;
    next_item_ += plan.n_items;
    if (next_item_ == items_per_seq_) {
      next_item_ = 0;
      next_seq_ += 1;
    }
    if (in_part) break;
  }
}

// Chooses pages_per_block so that the rounds in which the multiprocessors take blocks are few and
// full.
void SparsePlanner::SpreadPages(SparsePlan& plan) const {
  const auto blocks_of = [&](int seq) {
    return CeilDiv(plan.n_tiles(seq), plan.TilesPerBlock(seq)) * plan.n_items;
  };
  const int64_t n_pages = (plan.page_begin[plan.n_seqs] - plan.page_begin[0]) * plan.n_items;
  const int64_t fixed_pages = CeilDiv(kBlockFixedTokens, plan.page_tokens);
  int64_t best_cost = std::numeric_limits<int64_t>::max();
  int best = 1;
  for (int rounds = 1; rounds <= kRoundsMax; ++rounds) {
    for (int slack = 0; slack < kSlackMax; ++slack) {
      // An item's last block is not full: the others take a little more than an even share.
      plan.pages_per_block = static_cast<int>(std::max<int64_t>(
          1, CeilDiv(n_pages * (kSlackUnit + slack),
                     static_cast<int64_t>(kSlackUnit) * n_multiprocessors_ * rounds)));
      int64_t n_blocks = 0;
      for (int q = 0; q < plan.n_seqs; ++q) n_blocks += blocks_of(q);
      const int64_t cost =
          CeilDiv(n_blocks, n_multiprocessors_) * (plan.pages_per_block + fixed_pages);
      if (cost >= best_cost) continue;
      best_cost = cost;
      best = plan.pages_per_block;
    }
  }
  plan.pages_per_block = best;
  plan.block_begin[0] = 0;
  for (int q = 0; q < plan.n_seqs; ++q) {
    plan.block_begin[q + 1] = plan.block_begin[q] + static_cast<int>(blocks_of(q));
  }
}

SparseArrays SparsePlanner::Arrays(const SparsePlan& plan, char* workspace) const {
  WorkspaceCutter cutter(workspace);
  const int64_t n_tokens =
      (plan.page_begin[plan.n_seqs] - plan.page_begin[0]) * plan.page_tokens * plan.n_items;
  return SparseArrays(cutter, sizes_, plan.n_wave_items(),
                      static_cast<int64_t>(plan.tile_begin[plan.n_seqs]) * plan.n_items, n_tokens);
}

}  // namespace lexico::kernels::cuda

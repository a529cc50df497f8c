#include "kernels/cuda/dense_attention_plan.h"

#include <algorithm>
#include <limits>

#include "proto/base/check.h"

namespace lexico::kernels::cuda {

DensePlanner::DensePlanner(const DenseAttentionArgs& args, size_t workspace_bytes)
    : args_(args), workspace_bytes_(workspace_bytes) {
  LEXICO_CHECK_LE(args.rows_max, int64_t{std::numeric_limits<int>::max()});
}

bool DensePlanner::Next(DensePlan& plan) {
  if (next_seq_ == args_.q.dim(0)) return false;
  const bool any_pages = args_.page_begin != nullptr && args_.page_begin[args_.q.dim(0)] > 0;
  plan.first_seq = next_seq_;
  plan.tile_tokens = TileTokens(LoadsFor(DTypeBytes(args_.kv_type)),
                                RowLanesFor(static_cast<int>(args_.q.dim(2))));
  plan.page_tokens = any_pages ? args_.layout.page_tokens : 1;
  plan.page_tiles = static_cast<int>(CeilDiv(plan.page_tokens, plan.tile_tokens));
  plan.n_seqs = 0;
  plan.direct = true;
  plan.slot_begin[0] = 0;
  plan.page_begin[0] = any_pages ? args_.page_begin[next_seq_] : 0;
  while (plan.n_seqs < kDenseWaveSequences && next_seq_ < args_.q.dim(0)) {
    plan.page_begin[plan.n_seqs + 1] = any_pages ? args_.page_begin[next_seq_ + 1] : 0;
    const int64_t n_slots = SlotsOf(plan, plan.n_seqs);
    const bool direct = plan.direct && n_slots == 1;
    const int64_t all_slots = plan.slot_begin[plan.n_seqs] + n_slots;
    if (!direct && !Fits(all_slots)) {
      // One sequence alone needs no more than the workspace (CudaOptions::workspace_bytes).
      LEXICO_CHECK(plan.n_seqs > 0);
      break;
    }
    plan.direct = direct;
    plan.n_seqs += 1;
    plan.slot_begin[plan.n_seqs] = static_cast<int>(all_slots);
    next_seq_ += 1;
  }
  return true;
}

// At least one, so that there is a block that writes the outputs of a sequence without tokens.
int64_t DensePlanner::SlotsOf(const DensePlan& plan, int64_t seq) const {
  // Fewer tokens can have more chunks: those of the largest count that does not double yet.
  const auto slots_up_to = [&](int64_t n_tiles) {
    return std::min<int64_t>(kChunksMax, CeilDiv(n_tiles, kChunkTokens / plan.tile_tokens));
  };
  const int64_t page_tiles = plan.PageTiles(static_cast<int>(seq));
  const int64_t page_slots =
      args_.n_pages == nullptr ? ChunksOf(page_tiles, plan.tile_tokens) : slots_up_to(page_tiles);
  return std::max<int64_t>(1, page_slots + slots_up_to(CeilDiv(args_.rows_max, plan.tile_tokens)));
}

bool DensePlanner::Fits(int64_t n_slots) const {
  WorkspaceCutter cutter(nullptr);
  DenseParts(cutter, n_slots, args_.q.dim(1), args_.q.dim(2));
  return cutter.bytes() <= workspace_bytes_;
}

}  // namespace lexico::kernels::cuda

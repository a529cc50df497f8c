// How a call of PrefillAttention is cut: a task is (KV head, block of queries), belongs to one
// thread, and works on rows (query, head of the group), so that a packed tile of K and V serves
// every query head of the group.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/api/dense_attention.h"

namespace lexico::kernels::cpu {

struct PrefillTask {
  const PrefillAttentionArgs* args;
  int64_t kv_head;
  int64_t query;  // first
  int64_t n_queries;
  int64_t group;

  int64_t n_rows() const { return n_queries * group; }
  int64_t head_dim() const { return args->q.dim(2); }
  // Keys that the last query sees.
  int64_t n_visible() const { return args->first_position + query + n_queries; }
  // Position of the query of a row; rows past the last repeat the last query.
  int64_t position(int64_t row) const {
    return args->first_position + query + std::min(row / group, n_queries - 1);
  }
  // Of a row in q and out.
  int64_t offset(int64_t row) const {
    const int64_t head = kv_head * group + row % group;
    return ((query + row / group) * args->q.dim(1) + head) * head_dim();
  }
};

class PrefillTasks {
 public:
  // Tasks of at most `task_rows` rows, fewer where threads would be idle, but at least a strip.
  PrefillTasks(const PrefillAttentionArgs& args, int64_t task_rows, int64_t strip_rows, int threads)
      : args_(&args), strip_rows_(strip_rows), group_(args.q.dim(1) / args.k.dim(1)) {
    const int64_t most = std::max<int64_t>(1, task_rows / group_);
    const int64_t least = std::min(most, std::max<int64_t>(1, strip_rows / group_));
    // Blocks of a head differ in work, heads do not: where these alone go round, that is best.
    const int64_t blocks =
        n_kv_heads() % threads == 0 ? 1 : (2 * threads + n_kv_heads() - 1) / n_kv_heads();
    task_queries_ = std::clamp((n_queries() + blocks - 1) / blocks, least, most);
    n_blocks_ = (n_queries() + task_queries_ - 1) / task_queries_;
  }

  int64_t size() const { return n_blocks_ * n_kv_heads(); }
  // Of the largest task, in whole strips.
  int64_t n_rows() const {
    return (task_queries_ * group_ + strip_rows_ - 1) / strip_rows_ * strip_rows_;
  }
  // Later queries see more keys: they go first, so that no thread begins the longest last.
  PrefillTask operator[](int64_t i) const {
    const int64_t query = (n_blocks_ - 1 - i / n_kv_heads()) * task_queries_;
    return {args_, i % n_kv_heads(), query, std::min(task_queries_, n_queries() - query), group_};
  }

 private:
  int64_t n_queries() const { return args_->q.dim(0); }
  int64_t n_kv_heads() const { return args_->k.dim(1); }

  const PrefillAttentionArgs* args_;
  int64_t strip_rows_;
  int64_t group_;
  int64_t task_queries_;
  int64_t n_blocks_;
};

}  // namespace lexico::kernels::cpu

// PrefillAttention with BF16 products, for CPUs with AMX or AVX512_BF16.
//
// As prefill_attention_simd.cc, but the two products of a tile are oneDNN primitives:
//
//   S [rows, keys] = Q [rows, head_dim] K^T        BF16 x BF16 -> F32
//   O [rows, head_dim] += P [rows, keys] V         BF16 x BF16, added to F32
//
// A task is (KV head, block of queries) and belongs to one thread, inside which oneDNN is told to
// use one thread. Memory of a task at head_dim 128, 256 rows, 512 keys: S 512 K, P 256 K, K and V
// 128 K each, Q 64 K, O 128 K: the 2 MB L2 of the CPUs that have AMX.
//
// A tile that reaches past what the task's first query sees is masked row by row: exponentials of
// unseen keys are 0. If such a tile holds a value that is not finite, the whole call is done in F32
// instead, where 0 * infinity is kept out of rows that do not see it.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "hwy/aligned_allocator.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/prefill_attention.h"
#include "oneapi/dnnl/dnnl.hpp"
#include "proto/base/check.h"

namespace lexico::kernels::cpu {
namespace {

using dnnl::memory;

constexpr int64_t kTaskRows = 256;
constexpr float kLog2E = 1.44269504088896341f;

struct Shape {
  int64_t n_rows;
  int64_t n_keys;
  int64_t head_dim;
};

memory::desc Desc(int64_t rows, int64_t columns, memory::data_type type, bool transposed = false) {
  return memory::desc({rows, columns}, type,
                      transposed ? memory::format_tag::ba : memory::format_tag::ab);
}

// oneDNN throws only when it cannot serve a shape or memory is out; both end the process here, and
// inside a parallel region an exception must not get out of it anyway.
template <class Call>
auto NoThrow(const Call& call) {
  try {
    return call();
  } catch (const dnnl::error& e) {
    base::CheckFailed(__FILE__, __LINE__, fmt::format("oneDNN in PrefillAttention: {}", e.what()));
  }
}

// y = a b, or y += a b; oneDNN caches the code by shape.
void Multiply(const dnnl::engine& engine, dnnl::stream& stream, const memory::desc& a,
              const uint16_t* a_data, const memory::desc& b, const uint16_t* b_data,
              const memory::desc& y, float* y_data, bool accumulate) {
  NoThrow([&] {
    dnnl::primitive_attr attr;
    if (accumulate) {
      dnnl::post_ops ops;
      ops.append_sum(1.0f);
      attr.set_post_ops(ops);
    }
    const dnnl::matmul::primitive_desc described(dnnl::matmul::desc(a, b, y), attr, engine);
    dnnl::matmul(described).execute(
        stream, {{DNNL_ARG_SRC, memory(a, engine, const_cast<uint16_t*>(a_data))},
                 {DNNL_ARG_WEIGHTS, memory(b, engine, const_cast<uint16_t*>(b_data))},
                 {DNNL_ARG_DST, memory(y, engine, y_data)}});
    stream.wait();
  });
}

// What one thread needs; reused from task to task.
class Worker {
 public:
  Worker(const PrefillAttentionArgs& args, int64_t task_queries)
      : args_(args),
        group_(args.q.dim(1) / args.k.dim(1)),
        head_dim_(args.q.dim(2)),
        engine_(NoThrow([] { return dnnl::engine(dnnl::engine::kind::cpu, 0); })),
        stream_(NoThrow([&] { return dnnl::stream(engine_); })) {
    const int64_t rows = task_queries * group_;
    q_ = hwy::AllocateAligned<uint16_t>(rows * head_dim_);
    k_ = hwy::AllocateAligned<uint16_t>(kPrefillTileKeysBf16 * head_dim_);
    v_ = hwy::AllocateAligned<uint16_t>(kPrefillTileKeysBf16 * head_dim_);
    s_ = hwy::AllocateAligned<float>(rows * kPrefillTileKeysBf16);
    p_ = hwy::AllocateAligned<uint16_t>(rows * kPrefillTileKeysBf16);
    o_ = hwy::AllocateAligned<float>(rows * head_dim_);
    max_.resize(rows);
    sum_.resize(rows);
    row_.resize(head_dim_);
  }

  // False when a value that only some of the rows see is not finite; out is then unfinished.
  bool Run(int64_t kv_head, int64_t query, int64_t n_queries) {
    const int64_t n_rows = n_queries * group_;
    PackQueries(kv_head, query, n_rows);
    const int64_t first_seen = args_.first_position + query + 1;  // keys that every row sees
    const int64_t n_visible = first_seen + n_queries - 1;
    for (int64_t first = 0; first < n_visible; first += kPrefillTileKeysBf16) {
      const int64_t n_keys = std::min(kPrefillTileKeysBf16, n_visible - first);
      PackKeyRows(args_.k, kv_head, first, n_keys, k_.get());
      const bool finite = PackKeyRows(args_.v, kv_head, first, n_keys, v_.get());
      if (!finite && first + n_keys > first_seen) return false;
      Tile({n_rows, n_keys, head_dim_}, args_.first_position + query + 1 - first);
    }
    Finish(kv_head, query, n_rows);
    return true;
  }

 private:
  int64_t OutputOffset(int64_t kv_head, int64_t query, int64_t row) const {
    const int64_t head = kv_head * group_ + row % group_;
    return ((query + row / group_) * args_.q.dim(1) + head) * head_dim_;
  }

  void PackQueries(int64_t kv_head, int64_t query, int64_t n_rows) {
    const float scale = args_.scale * kLog2E;
    for (int64_t row = 0; row < n_rows; ++row) {
      const float* from = args_.q.as<float>() + OutputOffset(kv_head, query, row);
      for (int64_t i = 0; i < head_dim_; ++i) row_[i] = from[i] * scale;
      Narrow(row_.data(), q_.get() + row * head_dim_);
    }
    std::fill_n(o_.get(), n_rows * head_dim_, 0.0f);
    std::fill(max_.begin(), max_.end(), -std::numeric_limits<float>::infinity());
    std::fill(sum_.begin(), sum_.end(), 0.0f);
  }

  // Rows [first, first + n) of one head, as BF16; returns whether all are finite.
  bool PackKeyRows(const TensorView& from, int64_t kv_head, int64_t first, int64_t n,
                   uint16_t* to) {
    const int64_t stride = from.dim(1) * head_dim_;
    const float* rows = from.as<float>() + first * stride + kv_head * head_dim_;
    float zero_or_nan = 0;
    for (int64_t t = 0; t < n; ++t) {
      for (int64_t i = 0; i < head_dim_; ++i) zero_or_nan += rows[t * stride + i] * 0.0f;
      Narrow(rows + t * stride, to + t * head_dim_);
    }
    return zero_or_nan == 0.0f;
  }

  void Narrow(const float* from, uint16_t* to) {
    Convert(TensorView(from, {head_dim_}), MutableTensorView(to, DType::kBF16, {head_dim_}), 1);
  }

  // `seen_by_first`: keys of the tile that the first query sees; each next query sees one more.
  void Tile(const Shape& t, int64_t seen_by_first) {
    const auto bf16 = memory::data_type::bf16;
    const auto f32 = memory::data_type::f32;
    Multiply(engine_, stream_, Desc(t.n_rows, t.head_dim, bf16), q_.get(),
             Desc(t.head_dim, t.n_keys, bf16, /*transposed=*/true), k_.get(),
             Desc(t.n_rows, t.n_keys, f32), s_.get(), false);
    for (int64_t row = 0; row < t.n_rows; ++row) {
      const int64_t visible = std::clamp<int64_t>(seen_by_first + row / group_, 0, t.n_keys);
      const float factor = SoftmaxRowBf16(s_.get() + row * t.n_keys, t.n_keys, visible, &max_[row],
                                          &sum_[row], p_.get() + row * t.n_keys);
      if (factor == 1.0f) continue;
      float* o = o_.get() + row * head_dim_;
      for (int64_t i = 0; i < head_dim_; ++i) o[i] *= factor;
    }
    Multiply(engine_, stream_, Desc(t.n_rows, t.n_keys, bf16), p_.get(),
             Desc(t.n_keys, t.head_dim, bf16), v_.get(), Desc(t.n_rows, t.head_dim, f32), o_.get(),
             true);
  }

  void Finish(int64_t kv_head, int64_t query, int64_t n_rows) {
    for (int64_t row = 0; row < n_rows; ++row) {
      float* to = args_.out.as_mutable<float>() + OutputOffset(kv_head, query, row);
      const float inverse = sum_[row] == 0 ? 0.0f : 1.0f / sum_[row];
      for (int64_t i = 0; i < head_dim_; ++i) to[i] = o_[row * head_dim_ + i] * inverse;
    }
  }

  const PrefillAttentionArgs& args_;
  int64_t group_;
  int64_t head_dim_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  hwy::AlignedFreeUniquePtr<uint16_t[]> q_;  // [rows, head_dim]
  hwy::AlignedFreeUniquePtr<uint16_t[]> k_;  // [keys, head_dim]
  hwy::AlignedFreeUniquePtr<uint16_t[]> v_;  // [keys, head_dim]
  hwy::AlignedFreeUniquePtr<float[]> s_;     // [rows, keys]
  hwy::AlignedFreeUniquePtr<uint16_t[]> p_;  // [rows, keys]
  hwy::AlignedFreeUniquePtr<float[]> o_;     // [rows, head_dim]
  std::vector<float> max_;
  std::vector<float> sum_;
  std::vector<float> row_;
};

// Returns false where the F32 path has to do the call.
bool RunAll(const PrefillAttentionArgs& args, int threads) {
  const int64_t n_queries = args.q.dim(0);
  const int64_t n_kv_heads = args.k.dim(1);
  const int64_t group = args.q.dim(1) / n_kv_heads;
  const int64_t task_queries = std::min(std::max<int64_t>(1, kTaskRows / group), n_queries);
  const int64_t n_blocks = (n_queries + task_queries - 1) / task_queries;
  std::atomic<bool> done = true;
#pragma omp parallel num_threads(threads)
  {
    const OneDnnThreads one(1);
    Worker worker(args, task_queries);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n_blocks * n_kv_heads; ++i) {
      const int64_t query = (n_blocks - 1 - i / n_kv_heads) * task_queries;
      if (!worker.Run(i % n_kv_heads, query, std::min(task_queries, n_queries - query)))
        done = false;
    }
  }
  return done;
}

}  // namespace

void PrefillAttentionBf16(const PrefillAttentionArgs& args, int threads) {
  if (!RunAll(args, threads)) PrefillAttentionF32(args, threads);
}

void PrefillAttention(const PrefillAttentionArgs& args, Bf16UnitKind unit, int threads) {
  if (unit != Bf16UnitKind::kNone && args.allow_bf16) return PrefillAttentionBf16(args, threads);
  PrefillAttentionF32(args, threads);
}

}  // namespace lexico::kernels::cpu

// DenseAttention, vectorised.
//
// Task = (sequence, KV head, part of kDensePartTokens tokens); a part yields a partial softmax of
// every query head of the group, and parts are joined in order. Within a part:
//
//   pass 1  scores of all tokens: a key is read once and multiplied with every query of the group
//   pass 2  maximum, exponentials, their sum
//   pass 3  weighted values in blocks of kBlockTokens tokens: a value is read once, from L1, for
//           every query of the group
//
// Bound by memory: 4 * head_dim bytes (16-bit K and V) for 4 * group * head_dim FLOP a token and KV
// head, so at group 4 two flops a byte and query head.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "hwy/cache_control.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/dense_attention.h"
#include "kernels/cpu/dense_pieces.h"
#include "kernels/cpu/openmp.h"
#include "proto/base/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/dense_attention_simd.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/elementwise_exp-inl.h"

#ifndef LEXICO_KERNELS_CPU_DENSE_ATTENTION_PART_
#define LEXICO_KERNELS_CPU_DENSE_ATTENTION_PART_
namespace lexico::kernels::cpu {

// Tokens of one piece within one part, for one KV head.
struct PartRun {
  const uint8_t* k;
  const uint8_t* v;
  int64_t n_tokens;
  int64_t token_stride;  // elements
};

struct Part {
  const float* q;  // [group, head_dim]
  int64_t group;
  int64_t head_dim;
  float scale;
  DType type;
  const PartRun* runs;
  int64_t n_runs;
  int64_t n_tokens;  // of all runs, at most kDensePartTokens
  float* scores;     // scratch [group, kDensePartTokens]
  // Results.
  float* out;        // [group, head_dim]
  float* max_score;  // [group]
  float* sum_exp;    // [group]
};

}  // namespace lexico::kernels::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu {
namespace HWY_NAMESPACE {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
inline constexpr int64_t kLanes = hn::MaxLanes(D());
inline constexpr int64_t kBlockTokens = 16;

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

HWY_INLINE V LoadWide(const float* from) { return hn::LoadU(D(), from); }
HWY_INLINE V LoadWide(const Bf16* from) {
  const hn::RebindToUnsigned<D> du32;
  const hn::Rebind<uint16_t, D> du16;
  const auto bits = hn::PromoteTo(du32, hn::LoadU(du16, &from->bits));
  return hn::BitCast(D(), hn::ShiftLeft<16>(bits));
}
HWY_INLINE V LoadWide(const F16* from) {
  const hn::Rebind<hwy::float16_t, D> df16;
  return hn::PromoteTo(D(), hn::LoadU(df16, reinterpret_cast<const hwy::float16_t*>(from)));
}
HWY_INLINE float LoadOne(const float* from) { return *from; }
HWY_INLINE float LoadOne(const Bf16* from) { return Bf16ToFloat(from->bits); }
HWY_INLINE float LoadOne(const F16* from) { return F16ToFloat(from->bits); }

// scores[g][first + t] for kTokens tokens and kQueries queries.
template <int kQueries, int kTokens, typename Element>
HWY_INLINE void Score(const Part& part, int64_t query, const Element* k, int64_t stride,
                      int64_t first) {
  const D d;
  const int64_t head_dim = part.head_dim;
  const float* q = part.q + query * head_dim;
  V sum[kQueries][kTokens];
#pragma GCC unroll 8
  for (int g = 0; g < kQueries; ++g)
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) sum[g][t] = hn::Zero(d);
  int64_t i = 0;
  for (; i + kLanes <= head_dim; i += kLanes) {
    V key[kTokens];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) key[t] = LoadWide(k + t * stride + i);
#pragma GCC unroll 8
    for (int g = 0; g < kQueries; ++g) {
      const V x = hn::LoadU(d, q + g * head_dim + i);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) sum[g][t] = hn::MulAdd(x, key[t], sum[g][t]);
    }
  }
#pragma GCC unroll 8
  for (int g = 0; g < kQueries; ++g)
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      float s = hn::GetLane(hn::SumOfLanes(d, sum[g][t]));
      for (int64_t j = i; j < head_dim; ++j) s += q[g * head_dim + j] * LoadOne(k + t * stride + j);
      part.scores[(query + g) * kDensePartTokens + first + t] = s * part.scale;
    }
}

// Asks for the row kAheadTokens after token t of run r, or of the next run: rows of one head are
// short pieces far apart, which the hardware's prefetcher does not follow.
inline constexpr int64_t kAheadTokens = 12;

template <typename Element>
HWY_INLINE void FetchAhead(const Part& part, int64_t r, int64_t t, bool value) {
  t += kAheadTokens;
  if (t >= part.runs[r].n_tokens) {
    t -= part.runs[r].n_tokens;
    ++r;
    if (r == part.n_runs || t >= part.runs[r].n_tokens) return;
  }
  const PartRun& run = part.runs[r];
  const auto* row = reinterpret_cast<const Element*>(value ? run.v : run.k) + t * run.token_stride;
  for (int64_t i = 0; i < part.head_dim; i += 64 / static_cast<int64_t>(sizeof(Element)))
    hwy::Prefetch(row + i);
}

template <int kQueries, typename Element>
HWY_INLINE void ScoreRuns(const Part& part, int64_t query) {
  int64_t first = 0;
  for (int64_t r = 0; r < part.n_runs; ++r) {
    const PartRun& run = part.runs[r];
    const auto* k = reinterpret_cast<const Element*>(run.k);
    int64_t t = 0;
    for (; t + 2 <= run.n_tokens; t += 2) {
      FetchAhead<Element>(part, r, t, /*value=*/false);
      FetchAhead<Element>(part, r, t + 1, /*value=*/false);
      Score<kQueries, 2>(part, query, k + t * run.token_stride, run.token_stride, first + t);
    }
    for (; t < run.n_tokens; ++t)
      Score<kQueries, 1>(part, query, k + t * run.token_stride, run.token_stride, first + t);
    first += run.n_tokens;
  }
}

// Turns scores into exponentials; gives maximum and sum. A score of -infinity has weight 0.
void Exponentials(const Part& part, int64_t query) {
  const D d;
  float* s = part.scores + query * kDensePartTokens;
  const int64_t n = part.n_tokens;
  const float minus_infinity = -std::numeric_limits<float>::infinity();
  // Whole vectors: the places after the last token hold -infinity.
  const int64_t n_padded = (n + kLanes - 1) / kLanes * kLanes;
  std::fill(s + n, s + n_padded, minus_infinity);
  V max = hn::Set(d, minus_infinity);
  for (int64_t t = 0; t < n_padded; t += kLanes) max = hn::Max(max, hn::LoadU(d, s + t));
  const float m = hn::GetLane(hn::MaxOfLanes(d, max));
  part.max_score[query] = m;
  const V shift = hn::Set(d, m == minus_infinity ? 0.0f : m);
  V sum = hn::Zero(d);
  for (int64_t t = 0; t < n_padded; t += kLanes) {
    const V e = ExpNonPositive(d, hn::Sub(hn::LoadU(d, s + t), shift));
    hn::StoreU(e, d, s + t);
    sum = hn::Add(sum, e);
  }
  part.sum_exp[query] = hn::GetLane(hn::SumOfLanes(d, sum));
}

// out[g] += sum over a block of tokens of weight * value.
template <int kQueries, typename Element>
HWY_INLINE void WeightBlock(const Part& part, int64_t query, const Element* v, int64_t stride,
                            int64_t first, int64_t n) {
  const D d;
  const int64_t head_dim = part.head_dim;
  const float* weight = part.scores + query * kDensePartTokens + first;
  float* out = part.out + query * head_dim;
  int64_t i = 0;
  for (; i + 2 * kLanes <= head_dim; i += 2 * kLanes) {
    V sum[kQueries][2];
#pragma GCC unroll 8
    for (int g = 0; g < kQueries; ++g) {
      sum[g][0] = hn::LoadU(d, out + g * head_dim + i);
      sum[g][1] = hn::LoadU(d, out + g * head_dim + i + kLanes);
    }
    for (int64_t t = 0; t < n; ++t) {
      const V low = LoadWide(v + t * stride + i);
      const V high = LoadWide(v + t * stride + i + kLanes);
#pragma GCC unroll 8
      for (int g = 0; g < kQueries; ++g) {
        const V w = hn::Set(d, weight[g * kDensePartTokens + t]);
        sum[g][0] = hn::MulAdd(w, low, sum[g][0]);
        sum[g][1] = hn::MulAdd(w, high, sum[g][1]);
      }
    }
#pragma GCC unroll 8
    for (int g = 0; g < kQueries; ++g) {
      hn::StoreU(sum[g][0], d, out + g * head_dim + i);
      hn::StoreU(sum[g][1], d, out + g * head_dim + i + kLanes);
    }
  }
  for (; i < head_dim; ++i)
    for (int g = 0; g < kQueries; ++g) {
      float sum = out[g * head_dim + i];
      for (int64_t t = 0; t < n; ++t)
        sum += weight[g * kDensePartTokens + t] * LoadOne(v + t * stride + i);
      out[g * head_dim + i] = sum;
    }
}

template <int kQueries, typename Element>
HWY_INLINE void WeightRuns(const Part& part, int64_t query) {
  int64_t first = 0;
  for (int64_t r = 0; r < part.n_runs; ++r) {
    const PartRun& run = part.runs[r];
    const auto* v = reinterpret_cast<const Element*>(run.v);
    for (int64_t t = 0; t < run.n_tokens; t += kBlockTokens) {
      for (int64_t i = 0; i < kBlockTokens; ++i)
        FetchAhead<Element>(part, r, t + i, /*value=*/true);
      WeightBlock<kQueries>(part, query, v + t * run.token_stride, run.token_stride, first + t,
                            std::min(kBlockTokens, run.n_tokens - t));
    }
    first += run.n_tokens;
  }
}

template <typename Element>
void AttendPartOf(const Part& part) {
  std::fill(part.out, part.out + part.group * part.head_dim, 0.0f);
  int64_t query = 0;
  for (; query + 4 <= part.group; query += 4) ScoreRuns<4, Element>(part, query);
  for (; query < part.group; ++query) ScoreRuns<1, Element>(part, query);
  for (query = 0; query < part.group; ++query) Exponentials(part, query);
  for (query = 0; query + 4 <= part.group; query += 4) WeightRuns<4, Element>(part, query);
  for (; query < part.group; ++query) WeightRuns<1, Element>(part, query);
}

void AttendPart(const Part& part) {
  switch (part.type) {
    case DType::kBF16:
      return AttendPartOf<Bf16>(part);
    case DType::kF16:
      return AttendPartOf<F16>(part);
    default:
      return AttendPartOf<float>(part);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lexico::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lexico::kernels::cpu {
namespace {

HWY_EXPORT(AttendPart);

// Where a part's tokens lie.
struct Task {
  int64_t seq;
  int64_t kv_head;
  int64_t piece;  // the piece of the first token, and the token within it
  int64_t piece_token;
  int64_t n_tokens;
  int64_t part;  // index among all parts of all sequences
};

struct Plan {
  std::vector<std::vector<DensePiece>> pieces;  // of every sequence
  std::vector<Task> tasks;
  std::vector<int64_t> part_begin;  // [n_seqs + 1]
};

Plan MakePlan(const DenseAttentionArgs& args, int64_t n_seqs) {
  Plan plan;
  plan.part_begin.push_back(0);
  for (int64_t seq = 0; seq < n_seqs; ++seq) {
    int64_t part = plan.part_begin.back();
    int64_t room = 0;  // of the part that is being filled
    size_t open = plan.tasks.size();
    const std::vector<DensePiece>& pieces = plan.pieces.emplace_back(PiecesOf(args, seq));
    for (size_t i = 0; i < pieces.size(); ++i) {
      for (int64_t t = 0; t < pieces[i].n_tokens;) {
        if (room == 0) {
          open = plan.tasks.size();
          for (int64_t head = 0; head < args.n_kv_heads; ++head)
            plan.tasks.push_back({seq, head, static_cast<int64_t>(i), t, 0, part});
          ++part;
          room = kDensePartTokens;
        }
        const int64_t n = std::min(room, pieces[i].n_tokens - t);
        for (size_t task = open; task < plan.tasks.size(); ++task) plan.tasks[task].n_tokens += n;
        room -= n;
        t += n;
      }
    }
    plan.part_begin.push_back(part);
  }
  return plan;
}

std::vector<PartRun> RunsOf(const DenseAttentionArgs& args, const std::vector<DensePiece>& pieces,
                            const Task& task) {
  std::vector<PartRun> runs;
  const auto bytes = static_cast<int64_t>(DTypeBytes(args.kv_type));
  int64_t token = task.piece_token;
  int64_t left = task.n_tokens;
  for (int64_t i = task.piece; left > 0; ++i, token = 0) {
    const DensePiece& piece = pieces[i];
    const int64_t n = std::min(left, piece.n_tokens - token);
    if (n == 0) continue;
    const int64_t at = (token * piece.token_stride + task.kv_head * piece.head_stride) * bytes;
    runs.push_back({piece.k + at, piece.v + at, n, piece.token_stride});
    left -= n;
  }
  return runs;
}

// Partial results of all parts, [n_parts, n_heads(, head_dim)].
struct Partials {
  std::vector<float> out;
  std::vector<float> max_score;
  std::vector<float> sum_exp;
};

void Join(const DenseAttentionArgs& args, const Partials& parts, int64_t begin, int64_t end,
          int64_t seq, int64_t head) {
  const int64_t n_heads = args.q.dim(1);
  const int64_t head_dim = args.q.dim(2);
  const int64_t at = seq * n_heads + head;
  float max = -std::numeric_limits<float>::infinity();
  for (int64_t p = begin; p < end; ++p) max = std::max(max, parts.max_score[p * n_heads + head]);
  float* out = args.out.as_mutable<float>() + at * head_dim;
  std::fill(out, out + head_dim, 0.0f);
  float sum = 0;
  for (int64_t p = begin; p < end; ++p) {
    const int64_t from = p * n_heads + head;
    // A part whose every score is -infinity adds its zeros, or the NaN of its values, as they are.
    const float weight =
        parts.max_score[from] == max ? 1.0f : std::exp(parts.max_score[from] - max);
    sum += weight * parts.sum_exp[from];
    for (int64_t i = 0; i < head_dim; ++i) out[i] += weight * parts.out[from * head_dim + i];
  }
  args.max_score.as_mutable<float>()[at] = max;
  args.sum_exp.as_mutable<float>()[at] = sum;
}

}  // namespace

void DenseAttention(const DenseAttentionArgs& args, int threads) {
  const int64_t n_seqs = args.q.dim(0);
  const int64_t n_heads = args.q.dim(1);
  const int64_t head_dim = args.q.dim(2);
  const int64_t group = n_heads / args.n_kv_heads;
  const Plan plan = MakePlan(args, n_seqs);
  const int64_t n_parts = plan.part_begin.back();
  Partials parts{std::vector<float>(n_parts * n_heads * head_dim),
                 std::vector<float>(n_parts * n_heads), std::vector<float>(n_parts * n_heads)};
  int64_t n_tokens = 0;
  for (const Task& task : plan.tasks) n_tokens += task.n_tokens;
#pragma omp parallel num_threads(UsefulThreads(n_tokens* group* head_dim, threads))
  {
    std::vector<float> scores(group * kDensePartTokens);
#pragma omp for schedule(dynamic)
    for (size_t i = 0; i < plan.tasks.size(); ++i) {
      const Task& task = plan.tasks[i];
      const std::vector<PartRun> runs = RunsOf(args, plan.pieces[task.seq], task);
      const int64_t first_head = task.kv_head * group;
      const int64_t at = task.part * n_heads + first_head;
      HWY_DYNAMIC_DISPATCH(AttendPart)
      ({args.q.as<float>() + (task.seq * n_heads + first_head) * head_dim, group, head_dim,
        args.scale, args.kv_type, runs.data(), static_cast<int64_t>(runs.size()), task.n_tokens,
        scores.data(), parts.out.data() + at * head_dim, parts.max_score.data() + at,
        parts.sum_exp.data() + at});
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n_seqs * n_heads; ++i)
      Join(args, parts, plan.part_begin[i / n_heads], plan.part_begin[i / n_heads + 1], i / n_heads,
           i % n_heads);
  }
}

}  // namespace lexico::kernels::cpu
#endif  // HWY_ONCE

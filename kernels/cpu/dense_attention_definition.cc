// Definitions in the order of the formulas: all scores, their maximum, exponentials, sums. Do not
// make them faster: they are what "correct" means.
#include "kernels/cpu/dense_attention_definition.h"

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/dense_pieces.h"

namespace lexico::kernels::cpu::definition {
namespace {

struct Partial {
  double max_score = -std::numeric_limits<double>::infinity();
  double max_size = 0;  // magnitude of the score that is the maximum
  double sum = 0;       // of exp(score - max)
  double sum_size = 0;
  std::vector<double> out;       // [head_dim]
  std::vector<double> out_size;  // [head_dim]
};

// One query head over n tokens; key(t, i) and value(t, i) read component i of token t. A score of
// -infinity is a token of weight 0, also where every score is.
Partial Attend(const float* q, int64_t n, int head_dim, double scale,
               const std::function<double(int64_t, int)>& key,
               const std::function<double(int64_t, int)>& value) {
  Partial p;
  p.out.assign(head_dim, 0.0);
  p.out_size.assign(head_dim, 0.0);
  std::vector<double> score(n);
  std::vector<double> size(n);
  for (int64_t t = 0; t < n; ++t) {
    for (int i = 0; i < head_dim; ++i) {
      const double term = scale * q[i] * key(t, i);
      score[t] += term;
      size[t] += std::fabs(term);
    }
    if (score[t] > p.max_score) {
      p.max_score = score[t];
      p.max_size = size[t];
    }
  }
  for (int64_t t = 0; t < n; ++t) {
    const double weight = score[t] == -std::numeric_limits<double>::infinity()
                              ? 0.0
                              : std::exp(score[t] - p.max_score);
    // A weight of 0 is exact, also where the score's magnitude is infinite.
    const double weight_size = weight == 0 ? 0 : weight * (1.0 + size[t] + p.max_size);
    p.sum += weight;
    p.sum_size += weight_size;
    for (int i = 0; i < head_dim; ++i) {
      p.out[i] += weight * value(t, i);
      p.out_size[i] += weight_size * std::fabs(value(t, i));
    }
  }
  return p;
}

}  // namespace

void DenseAttention(const DenseAttentionArgs& args, const DenseAttentionMagnitude& magnitude) {
  const int64_t n_heads = args.q.dim(1);
  const int head_dim = static_cast<int>(args.q.dim(2));
  const int64_t group = n_heads / args.n_kv_heads;
  for (int64_t seq = 0; seq < args.q.dim(0); ++seq) {
    // (piece, token in it) of every token of the sequence.
    std::vector<std::pair<const DensePiece*, int64_t>> tokens;
    const std::vector<DensePiece> pieces = PiecesOf(args, seq);
    for (const DensePiece& piece : pieces)
      for (int64_t t = 0; t < piece.n_tokens; ++t) tokens.emplace_back(&piece, t);
    for (int64_t head = 0; head < n_heads; ++head) {
      const int64_t at = seq * n_heads + head;
      const auto read = [&](bool value, int64_t t, int i) {
        const auto& [piece, token] = tokens[t];
        return static_cast<double>(
            LoadFloat(value ? piece->v : piece->k, args.kv_type,
                      token * piece->token_stride + head / group * piece->head_stride + i));
      };
      const Partial p = Attend(
          args.q.as<float>() + at * head_dim, static_cast<int64_t>(tokens.size()), head_dim,
          args.scale, [&](int64_t t, int i) { return read(false, t, i); },
          [&](int64_t t, int i) { return read(true, t, i); });
      args.max_score.as_mutable<float>()[at] = static_cast<float>(p.max_score);
      args.sum_exp.as_mutable<float>()[at] = static_cast<float>(p.sum);
      magnitude.max_score.as_mutable<float>()[at] = static_cast<float>(p.max_size);
      magnitude.sum_exp.as_mutable<float>()[at] = static_cast<float>(p.sum_size);
      for (int i = 0; i < head_dim; ++i) {
        args.out.as_mutable<float>()[at * head_dim + i] = static_cast<float>(p.out[i]);
        magnitude.out.as_mutable<float>()[at * head_dim + i] = static_cast<float>(p.out_size[i]);
      }
    }
  }
}

void PrefillAttention(const PrefillAttentionArgs& args, MutableTensorView magnitude) {
  const int64_t n_heads = args.q.dim(1);
  const int64_t n_kv_heads = args.k.dim(1);
  const int head_dim = static_cast<int>(args.q.dim(2));
  const int64_t group = n_heads / n_kv_heads;
  for (int64_t query = 0; query < args.q.dim(0); ++query) {
    for (int64_t head = 0; head < n_heads; ++head) {
      const int64_t at = (query * n_heads + head) * head_dim;
      const auto place = [&](int64_t t, int i) {
        return (t * n_kv_heads + head / group) * head_dim + i;
      };
      const Partial p = Attend(
          args.q.as<float>() + at, args.first_position + query + 1, head_dim, args.scale,
          [&](int64_t t, int i) { return args.k.as<float>()[place(t, i)]; },
          [&](int64_t t, int i) { return args.v.as<float>()[place(t, i)]; });
      for (int i = 0; i < head_dim; ++i) {
        const double out = p.sum == 0 ? 0 : p.out[i] / p.sum;
        const double size = p.sum == 0 ? 0 : (p.out_size[i] + std::fabs(out) * p.sum_size) / p.sum;
        args.out.as_mutable<float>()[at + i] = static_cast<float>(out);
        magnitude.as_mutable<float>()[at + i] = static_cast<float>(size);
      }
    }
  }
}

}  // namespace lexico::kernels::cpu::definition

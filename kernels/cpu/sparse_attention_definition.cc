#include "kernels/cpu/sparse_attention_definition.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/api/omp_encode.h"
#include "kernels/cpu/code_view.h"
#include "kernels/cpu/dictionary.h"

namespace lexico::kernels::definition {
namespace {

// A sum and the sum of its terms' absolute values.
struct Sum {
  double value = 0;
  double magnitude = 0;
  void Add(double term, double term_magnitude) {
    value += term;
    magnitude += term_magnitude;
  }
};

// One query head of one sequence.
class Head {
 public:
  Head(const SparseAttentionArgs& args, int64_t seq, int64_t head)
      : args_(args),
        head_dim_(static_cast<int>(args.q.dim(2))),
        kv_head_(static_cast<int>(head / (args.q.dim(1) / args.layout.n_kv_heads))),
        q_(args.q.as<float>() + (seq * args.q.dim(1) + head) * head_dim_) {
    const cpu::PageList pages = {args.pages, args.page_offset};
    for (int64_t p = args.page_begin[seq]; p < args.PagesEnd(seq); ++p) {
      for (int t = 0; t < args.layout.page_tokens; ++t) tokens_.push_back({pages[p], t});
    }
  }

  void Run(const SparseAttentionMagnitudes& magnitudes, int64_t row) {
    std::vector<Sum> scores;
    double max_score = -std::numeric_limits<double>::infinity();
    double max_magnitude = 0;
    for (const Token& token : tokens_) {
      scores.push_back(Score(token));
      max_score = std::max(max_score, scores.back().value);
      max_magnitude = std::max(max_magnitude, scores.back().magnitude);
    }
    Sum sum_exp;
    std::vector<Sum> out(head_dim_);
    for (size_t t = 0; t < tokens_.size(); ++t) {
      const double p = std::exp(scores[t].value - max_score);
      const double p_magnitude = p * (1 + scores[t].magnitude + max_magnitude);
      sum_exp.Add(p, p_magnitude);
      for (int i = 0; i < head_dim_; ++i) {
        const Sum v = Value(tokens_[t], i);
        out[i].Add(p * v.value, p_magnitude * v.magnitude);
      }
    }
    args_.max_score.as_mutable<float>()[row] = static_cast<float>(max_score);
    magnitudes.max_score.as_mutable<float>()[row] = static_cast<float>(max_magnitude);
    args_.sum_exp.as_mutable<float>()[row] = static_cast<float>(sum_exp.value);
    magnitudes.sum_exp.as_mutable<float>()[row] = static_cast<float>(sum_exp.magnitude);
    for (int i = 0; i < head_dim_; ++i) {
      args_.out.as_mutable<float>()[row * head_dim_ + i] = static_cast<float>(out[i].value);
      magnitudes.out.as_mutable<float>()[row * head_dim_ + i] =
          static_cast<float>(out[i].magnitude);
    }
  }

 private:
  struct Token {
    const uint8_t* page;
    int t;
  };

  // scale * sum_j coef_k[t,j] * <q, D_k[atom_k[t,j]]>
  Sum Score(const Token& token) const {
    const cpu::Dictionary& dictionary = cpu::AsCpu(*args_.dictionary_k);
    const int sparsity = args_.layout.sparsity_k;
    const cpu::CodeView codes = cpu::CodesOf(token.page, args_.layout, false, kv_head_);
    Sum score;
    for (int j = token.t * sparsity; j < (token.t + 1) * sparsity; ++j) {
      Sum dot;
      for (int i = 0; i < head_dim_; ++i) {
        const double term = static_cast<double>(q_[i]) * dictionary.row(codes.atoms[j])[i];
        dot.Add(term, std::abs(term));
      }
      const double factor = static_cast<double>(args_.scale) * E4m3ToFloat(codes.coefs[j]);
      score.Add(factor * dot.value, std::abs(factor) * dot.magnitude);
    }
    return score;
  }

  // sum_j coef_v[t,j] * D_v[atom_v[t,j]][i]
  Sum Value(const Token& token, int i) const {
    const cpu::Dictionary& dictionary = cpu::AsCpu(*args_.dictionary_v);
    const int sparsity = args_.layout.sparsity_v;
    const cpu::CodeView codes = cpu::CodesOf(token.page, args_.layout, true, kv_head_);
    Sum value;
    for (int j = token.t * sparsity; j < (token.t + 1) * sparsity; ++j) {
      const double term =
          static_cast<double>(E4m3ToFloat(codes.coefs[j])) * dictionary.row(codes.atoms[j])[i];
      value.Add(term, std::abs(term));
    }
    return value;
  }

  const SparseAttentionArgs& args_;
  const int head_dim_;
  const int kv_head_;
  const float* q_;
  std::vector<Token> tokens_;
};

}  // namespace

void SparseAttention(const SparseAttentionArgs& args, const SparseAttentionMagnitudes& magnitudes) {
  const int64_t n_heads = args.q.dim(1);
  for (int64_t seq = 0; seq < args.q.dim(0); ++seq) {
    for (int64_t head = 0; head < n_heads; ++head) {
      Head(args, seq, head).Run(magnitudes, seq * n_heads + head);
    }
  }
}

}  // namespace lexico::kernels::definition

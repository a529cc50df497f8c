#include "kernels/cpu/sparse_attention_definition.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/code_view.h"
#include "kernels/cpu/dictionary.h"
#include "kernels/cpu/vector_code_definition.h"

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
      const DecodedVector value = Value(tokens_[t]);
      for (int i = 0; i < head_dim_; ++i) {
        out[i].Add(p * value.x[i], p_magnitude * value.magnitude[i]);
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

  static const cpu::Dictionary* DictionaryOf(const PreparedDictionary* dictionary) {
    return dictionary == nullptr ? nullptr : &cpu::AsCpu(*dictionary);
  }

  // scale * <q, k^[t]>
  Sum Score(const Token& token) const {
    const DecodedVector key = DecodeVector(args_.layout, false, kv_head_, token.t, token.page,
                                           DictionaryOf(args_.dictionary_k));
    Sum score;
    for (int i = 0; i < head_dim_; ++i) {
      const double factor = static_cast<double>(args_.scale) * q_[i];
      score.Add(factor * key.x[i], std::abs(factor) * key.magnitude[i]);
    }
    return score;
  }

  // v^[t]
  DecodedVector Value(const Token& token) const {
    return DecodeVector(args_.layout, true, kv_head_, token.t, token.page,
                        DictionaryOf(args_.dictionary_v));
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

// Chooses the next token from logits, with the meaning and the order of Hugging Face transformers:
//   repetition penalty -> temperature -> top-k -> top-p -> min-p -> draw.
//
// Deterministic: the draw is a function of (seed, position), not of earlier draws, so a session
// that moves to another worker goes on as if it had stayed.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/api/top_logits.h"

namespace lexico::worker {

struct SamplingParams {
  // 0: greedy, the token with the largest logit (the smallest id of equals); top-k, top-p and min-p
  // then change nothing. Range [0, 100].
  double temperature = 0;
  // Keep the k largest (and all equal to the last of them). 0: all. At most vocab_size matters.
  int top_k = 0;
  // Keep the smallest set of most probable tokens whose probability reaches top_p. Range (0, 1].
  double top_p = 1;
  // Keep tokens at least min_p times as probable as the best. Range [0, 1].
  double min_p = 0;
  // Logits of tokens in the history are divided by it where positive, multiplied where negative
  // (CTRL, arXiv 1909.05858). 1: off. Range [0.01, 100].
  double repetition_penalty = 1;
  uint64_t seed = 0;
  // -1: no log-probabilities; n >= 0: that of the chosen token and of the n most probable ones.
  // At most limits.h kLogprobsMax.
  int n_logprobs = -1;

  // InvalidArgument names the field, its value and the range.
  absl::Status Validate() const;
};

struct TokenLogprob {
  int32_t id = 0;
  // Natural logarithm of the probability under the model's own distribution: before the penalty,
  // the temperature and the filters.
  float logprob = 0;
};

struct SampledToken {
  int32_t id = 0;
  float logprob = 0;              // as TokenLogprob; 0 when n_logprobs < 0
  std::vector<TokenLogprob> top;  // [n_logprobs], most probable first, smaller id first of equals
};

// Uniform in [0, 1) with 53 bits: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) of seed and
// position.
double UniformAt(uint64_t seed, int64_t position);

// A row of kernels::TopLogits, in host memory.
struct TopRow {
  std::span<const float> logits;  // [n_top], the largest first
  std::span<const int32_t> ids;   // [n_top]
  kernels::RowSummary summary;
  int64_t n_vocab;
};

// Thread-compatible. Keeps its working memory between calls.
class Sampler {
 public:
  // What kernels::TopLogits is asked for so that SampleTop can choose with `params`.
  static int TopNeeded(const SamplingParams& params);
  static kernels::RowDraw DrawOf(const SamplingParams& params, int64_t position);

  // `logits` [vocab_size]; `history` ids the penalty applies to, in range, repeats allowed;
  // `position` the place in the sequence that the chosen token will take. Internal when a logit is
  // NaN or +infinity, or none is finite: the forward pass went wrong, and no token would be true.
  // REQUIRES: params.Validate() is OK, logits is not empty.
  absl::StatusOr<SampledToken> Sample(const SamplingParams& params, std::span<const float> logits,
                                      std::span<const int32_t> history, int64_t position);

  // The same choice from a row's best logits, which had DrawOf(params, position); nullopt where it
  // depends on others: with a penalty, or filters that leave more tokens than are known.
  // REQUIRES: as Sample; row.logits has TopNeeded(params) entries.
  absl::StatusOr<std::optional<SampledToken>> SampleTop(const SamplingParams& params,
                                                        const TopRow& row, int64_t position);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };

  // Orders by logit, then so that the smaller id is the better one.
  static bool Worse(const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit < b.logit : a.id > b.id;
  }

  void ApplyPenalty(double penalty, std::span<const int32_t> history);
  void KeepTopK(size_t top_k);
  // Which of candidates_, in the order of their ids, the filters behind top-k leave and the draw
  // hits. `outside` is the weight of tokens that are not among them, each no better than the worst
  // (0: there are none); nullopt where the filters leave some of those.
  std::optional<int32_t> Draw(const SamplingParams& params, double uniform, double outside);
  std::optional<int32_t> DrawTop(const SamplingParams& params, const TopRow& row, double uniform);

  std::vector<float> logits_;
  std::vector<uint8_t> seen_;
  std::vector<Candidate> candidates_;
};

}  // namespace lexico::worker

#include "worker/model/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "proto/base/check.h"
#include "proto/base/limits.h"
#include "proto/base/split_mix.h"

namespace lexico::worker {
namespace {

constexpr double kTemperatureMax = 100;
constexpr double kPenaltyMin = 0.01;
constexpr double kPenaltyMax = 100;

// NaN fails: it is inside no range.
absl::Status InRange(const char* field, double value, bool inside, const char* range) {
  if (inside) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("{} is {}, must be in {}", field, value, range));
}

absl::Status BadLogit(int64_t id, float logit) {
  return absl::InternalError(
      fmt::format("logit of token {} is {}; the forward pass failed", id, logit));
}

absl::Status NoneFinite(int64_t n_vocab) {
  return absl::InternalError(
      fmt::format("none of {} logits is finite; the forward pass failed", n_vocab));
}

absl::Status CheckLogits(std::span<const float> logits) {
  bool any_finite = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == std::numeric_limits<float>::infinity()) {
      return BadLogit(static_cast<int64_t>(i), logits[i]);
    }
    any_finite |= std::isfinite(logits[i]);
  }
  return any_finite ? absl::OkStatus() : NoneFinite(static_cast<int64_t>(logits.size()));
}

// The n best of all logits, each with its logit in place of a log-probability.
std::vector<TokenLogprob> BestOf(std::span<const float> logits, int n) {
  const size_t n_top = std::min(static_cast<size_t>(n), logits.size());
  const auto better = [](const TokenLogprob& a, const TokenLogprob& b) {
    return a.logprob != b.logprob ? a.logprob > b.logprob : a.id < b.id;
  };
  std::vector<TokenLogprob> top;
  if (n_top == 0) return top;
  // A heap whose front is the worst of the best so far.
  top.reserve(n_top + 1);
  for (size_t i = 0; i < logits.size(); ++i) {
    const TokenLogprob entry{static_cast<int32_t>(i), logits[i]};
    if (top.size() == n_top && !better(entry, top.front())) continue;
    top.push_back(entry);
    std::push_heap(top.begin(), top.end(), better);
    if (top.size() <= n_top) continue;
    std::pop_heap(top.begin(), top.end(), better);
    top.pop_back();
  }
  std::sort_heap(top.begin(), top.end(), better);
  return top;
}

// `best` as BestOf tells them; log_sum is the logarithm of the sum of all exp(logit).
void FillLogprobs(float chosen_logit, std::vector<TokenLogprob> best, double log_sum,
                  SampledToken* token) {
  token->logprob = static_cast<float>(chosen_logit - log_sum);
  token->top = std::move(best);
  for (TokenLogprob& entry : token->top) {
    entry.logprob = static_cast<float>(entry.logprob - log_sum);
  }
}

double LogSum(std::span<const float> logits) {
  const float max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - max);
  return max + std::log(sum);
}

}  // namespace

absl::Status SamplingParams::Validate() const {
  const absl::Status checks[] = {
      InRange("temperature", temperature, temperature >= 0 && temperature <= kTemperatureMax,
              "0 .. 100"),
      InRange("top_k", top_k, top_k >= 0, "0 .. vocab_size, 0 for all"),
      InRange("top_p", top_p, top_p > 0 && top_p <= 1, "(0, 1]"),
      InRange("min_p", min_p, min_p >= 0 && min_p <= 1, "0 .. 1"),
      InRange("repetition_penalty", repetition_penalty,
              repetition_penalty >= kPenaltyMin && repetition_penalty <= kPenaltyMax,
              "0.01 .. 100"),
      InRange("logprobs", n_logprobs, n_logprobs >= -1 && n_logprobs <= base::kLogprobsMax,
              "0 .. 20, or -1 for none"),
  };
  static_assert(base::kLogprobsMax == 20, "the message above says so");
  for (const absl::Status& check : checks) {
    if (!check.ok()) return check;
  }
  return absl::OkStatus();
}

double UniformAt(uint64_t seed, int64_t position) {
  // Two finalisers with the seed between them: neighbouring seeds and positions are unrelated.
  const uint64_t bits = base::SplitMix(base::SplitMix(seed) ^ static_cast<uint64_t>(position));
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

absl::StatusOr<SampledToken> Sampler::Sample(const SamplingParams& params,
                                             std::span<const float> logits,
                                             std::span<const int32_t> history, int64_t position) {
  LEXICO_CHECK_GT(logits.size(), size_t{0});
  LEXICO_INVARIANT(params.Validate().ok());
  if (absl::Status status = CheckLogits(logits); !status.ok()) return status;

  logits_.assign(logits.begin(), logits.end());
  if (params.repetition_penalty != 1) ApplyPenalty(params.repetition_penalty, history);

  SampledToken token;
  if (params.temperature == 0) {
    token.id =
        static_cast<int32_t>(std::max_element(logits_.begin(), logits_.end()) - logits_.begin());
  } else {
    KeepTopK(static_cast<size_t>(params.top_k));
    token.id = *Draw(params, UniformAt(params.seed, position), 0);
  }
  if (params.n_logprobs >= 0) {
    FillLogprobs(logits[token.id], BestOf(logits, params.n_logprobs), LogSum(logits), &token);
  }
  return token;
}

int Sampler::TopNeeded(const SamplingParams& params) {
  const bool best_only =
      params.repetition_penalty != 1 || (params.temperature == 0 && params.n_logprobs <= 1);
  return best_only ? 1 : kernels::kTopLogitsMax;
}

kernels::RowDraw Sampler::DrawOf(const SamplingParams& params, int64_t position) {
  return {.temperature = params.temperature > 0 ? params.temperature : 1,
          .uniform = UniformAt(params.seed, position)};
}

absl::StatusOr<std::optional<SampledToken>> Sampler::SampleTop(const SamplingParams& params,
                                                               const TopRow& row,
                                                               int64_t position) {
  LEXICO_INVARIANT(params.Validate().ok());
  // What exactly it is, and its penalty, stand in the row itself.
  if (row.summary.bad >= 0 || params.repetition_penalty != 1) return std::nullopt;
  if (!std::isfinite(row.summary.max)) return NoneFinite(row.n_vocab);
  SampledToken token = {.id = row.ids[0]};
  if (params.temperature > 0) {
    const auto drawn = DrawTop(params, row, UniformAt(params.seed, position));
    if (!drawn.has_value()) return std::nullopt;
    token.id = *drawn;
  }
  if (params.n_logprobs < 0) return token;
  const auto known = std::find(row.ids.begin(), row.ids.end(), token.id);
  const float logit =
      known == row.ids.end() ? row.summary.drawn_logit : row.logits[known - row.ids.begin()];
  std::vector<TokenLogprob> best;
  for (int i = 0; i < std::min<int64_t>(params.n_logprobs, row.n_vocab); ++i) {
    best.push_back({row.ids[i], row.logits[i]});
  }
  FillLogprobs(logit, std::move(best), row.summary.max + std::log(row.summary.sum), &token);
  return token;
}

std::optional<int32_t> Sampler::DrawTop(const SamplingParams& params, const TopRow& row,
                                        double uniform) {
  const auto n_known = static_cast<int64_t>(row.ids.size());
  const bool all_known = n_known >= row.n_vocab;
  const bool has_top_k = params.top_k > 0 && params.top_k < row.n_vocab;
  const bool filtered = has_top_k || params.top_p < 1 || params.min_p > 0;
  if (!filtered && row.summary.drawn >= 0) return row.summary.drawn;
  candidates_.clear();
  for (int64_t i = 0; i < std::min(n_known, row.n_vocab); ++i) {
    candidates_.push_back({row.logits[i], row.ids[i]});
  }
  double outside = 0;
  if (has_top_k && (all_known || params.top_k < n_known)) {
    const float last = row.logits[params.top_k - 1];
    // Others may equal it, which stay as well.
    if (!all_known && row.logits[n_known - 1] == last) return std::nullopt;
    std::erase_if(candidates_, [&](const Candidate& c) { return c.logit < last; });
  } else if (!all_known) {
    if (has_top_k) return std::nullopt;
    double inside = 0;
    for (const Candidate& c : candidates_) {
      inside += std::exp((static_cast<double>(c.logit) - row.summary.max) / params.temperature);
    }
    // Not 0, whatever the rounding of the sums.
    outside = std::max(row.summary.sum_at_temperature - inside,
                       std::numeric_limits<double>::denorm_min());
  }
  std::sort(candidates_.begin(), candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  return Draw(params, uniform, outside);
}

void Sampler::ApplyPenalty(double penalty, std::span<const int32_t> history) {
  seen_.assign(logits_.size(), 0);
  for (const int32_t id : history) {
    LEXICO_CHECK_GE(id, 0);
    LEXICO_CHECK_LT(static_cast<size_t>(id), logits_.size());
    if (seen_[id]) continue;
    seen_[id] = 1;
    float& logit = logits_[id];
    const double scaled = logit > 0 ? logit / penalty : logit * penalty;
    logit = static_cast<float>(std::min<double>(scaled, std::numeric_limits<float>::max()));
  }
}

// Every filter keeps the best so many tokens, so each can look at what the filter before it left.
std::optional<int32_t> Sampler::Draw(const SamplingParams& params, double uniform, double outside) {
  const float max = std::max_element(candidates_.begin(), candidates_.end(), Worse)->logit;
  const auto weight = [&](const Candidate& c) {
    return std::exp((static_cast<double>(c.logit) - max) / params.temperature);
  };
  const auto total = [&] {
    double sum = 0;
    for (const Candidate& c : candidates_) sum += weight(c);
    return sum;
  };
  if (params.top_p < 1) {
    const double wanted = params.top_p * (total() + outside);
    std::make_heap(candidates_.begin(), candidates_.end(), Worse);
    auto kept = candidates_.end();
    double sum = 0;
    for (; sum < wanted && kept != candidates_.begin(); sum += weight(*kept)) {
      std::pop_heap(candidates_.begin(), kept--, Worse);
    }
    if (sum < wanted && outside > 0) return std::nullopt;
    candidates_.erase(candidates_.begin(), kept);
    outside = 0;
  }
  if (params.min_p > 0) {
    const size_t n_before = candidates_.size();
    // The best token's weight is 1, so it always stays.
    std::erase_if(candidates_, [&](const Candidate& c) { return weight(c) < params.min_p; });
    if (candidates_.size() == n_before && outside > 0) return std::nullopt;
    outside = 0;
  }
  if (outside > 0) return std::nullopt;
  const double target = uniform * total();
  double sum = 0;
  for (const Candidate& c : candidates_) {
    sum += weight(c);
    if (sum > target) return c.id;
  }
  // Rounding of the sums may leave the target just beyond the last token.
  return std::max_element(candidates_.begin(), candidates_.end(), Worse)->id;
}

void Sampler::KeepTopK(size_t top_k) {
  const auto fill = [this](float logit_min) {
    candidates_.clear();
    for (size_t i = 0; i < logits_.size(); ++i) {
      if (logits_[i] >= logit_min) candidates_.push_back({logits_[i], static_cast<int32_t>(i)});
    }
  };
  fill(-std::numeric_limits<float>::infinity());
  if (top_k == 0 || top_k >= candidates_.size()) return;
  const auto last = candidates_.begin() + static_cast<ptrdiff_t>(top_k - 1);
  std::nth_element(candidates_.begin(), last, candidates_.end(),
                   [](const Candidate& a, const Candidate& b) { return Worse(b, a); });
  // Once more in the order of ids, with all that equal the last of them.
  fill(last->logit);
}

}  // namespace lexico::worker

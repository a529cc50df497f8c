#include "tools/eval/fidelity/divergence.h"

#include <algorithm>
#include <cmath>

#include "proto/base/check.h"

namespace lexico::eval {
namespace {

double LogSumExp(std::span<const float> logits, float max) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - max);
  return max + std::log(sum);
}

}  // namespace

Divergence Diverge(std::span<const float> reference, std::span<const float> logits,
                   int32_t target) {
  LEXICO_CHECK_EQ(reference.size(), logits.size());
  LEXICO_CHECK_LT(static_cast<size_t>(target), logits.size());
  const auto top_reference = std::max_element(reference.begin(), reference.end());
  const auto top = std::max_element(logits.begin(), logits.end());
  const double log_reference = LogSumExp(reference, *top_reference);
  const double log_sum = LogSumExp(logits, *top);
  Divergence result;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double log_p = reference[i] - log_reference;
    result.kl += std::exp(log_p) * (log_p - (logits[i] - log_sum));
  }
  result.same_top = top_reference - reference.begin() == top - logits.begin();
  result.nll = log_sum - logits[target];
  return result;
}

}  // namespace lexico::eval

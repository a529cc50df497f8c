#include "kernels/cpu/top_logits.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

namespace lexico::kernels::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

RowSummary Summarize(std::span<const float> logits, const RowDraw& draw) {
  RowSummary row = {.max = -kInfinity, .bad = -1, .drawn = -1};
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == kInfinity) {
      row.bad = static_cast<int32_t>(i);
      return row;
    }
    row.max = std::max(row.max, logits[i]);
  }
  if (row.max == -kInfinity) return row;
  const auto weight = [&](float logit) {
    return std::exp((static_cast<double>(logit) - row.max) / draw.temperature);
  };
  for (const float logit : logits) {
    row.sum += std::exp(static_cast<double>(logit) - row.max);
    row.sum_at_temperature += weight(logit);
  }
  const double target = draw.uniform * row.sum_at_temperature;
  double running = 0;
  for (size_t i = 0; i < logits.size() && row.drawn < 0; ++i) {
    running += weight(logits[i]);
    if (running <= target) continue;
    row.drawn = static_cast<int32_t>(i);
    row.drawn_logit = logits[i];
  }
  return row;
}

}  // namespace

void TopLogits(const TopLogitsArgs& args) {
  std::vector<int32_t> ids(args.n_vocab);
  for (int64_t r = 0; r < args.n_rows; ++r) {
    const std::span logits(args.logits + r * args.n_vocab, args.n_vocab);
    args.summaries[r] = Summarize(logits, args.draws[r]);
    float* top = args.top + r * args.n_top;
    int32_t* top_ids = args.top_ids + r * args.n_top;
    std::fill_n(top, args.n_top, -kInfinity);
    std::fill_n(top_ids, args.n_top, -1);
    if (args.summaries[r].bad >= 0) continue;
    std::iota(ids.begin(), ids.end(), 0);
    const int64_t n = std::min<int64_t>(args.n_top, args.n_vocab);
    std::partial_sort(ids.begin(), ids.begin() + n, ids.end(), [&](int32_t a, int32_t b) {
      return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
    });
    for (int64_t i = 0; i < n; ++i) {
      top[i] = logits[ids[i]];
      top_ids[i] = ids[i];
    }
  }
}

}  // namespace lexico::kernels::cpu

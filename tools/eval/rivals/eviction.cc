#include "tools/eval/rivals/eviction.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace lexico::eval {
namespace {

class Eviction : public Rival {
 public:
  Eviction(std::string name, int bytes) : Rival(std::move(name)), bytes_(bytes) {}

  absl::Status Check(const RowShape& shape) const override {
    if (bytes_ <= shape.fp16_bytes()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        fmt::format("{}: a budget of {} bytes a vector, an exact one takes {}; name less", name(),
                    bytes_, shape.fp16_bytes()));
  }
  double BytesPerVector(const RowShape& shape, int64_t n_coded) const override {
    return static_cast<double>(KeptTokens(shape, n_coded, bytes_)) * shape.fp16_bytes() /
           static_cast<double>(n_coded);
  }
  LayerRows Compress(const LayerContext& context) const override {
    const RowShape& shape = context.shape;
    const int64_t n_kept = KeptTokens(shape, context.n_coded, bytes_);
    LayerRows rows{std::vector<float>(n_kept * shape.row_dim()),
                   std::vector<float>(n_kept * shape.row_dim())};
    for (int head = 0; head < shape.n_kv_heads; ++head) {
      const std::vector<int64_t> kept = Kept(context, head, n_kept);
      const int64_t column = static_cast<int64_t>(head) * shape.head_dim;
      for (int64_t i = 0; i < n_kept; ++i) {
        const int64_t from = kept[i] * shape.row_dim() + column;
        const int64_t to = i * shape.row_dim() + column;
        std::copy_n(context.k.begin() + from, shape.head_dim, rows.k.begin() + to);
        std::copy_n(context.v.begin() + from, shape.head_dim, rows.v.begin() + to);
      }
    }
    return rows;
  }

 protected:
  // n_kept of the n_coded tokens, ascending.
  virtual std::vector<int64_t> Kept(const LayerContext& context, int kv_head,
                                    int64_t n_kept) const = 0;

 private:
  const int bytes_;
};

class SnapKv : public Eviction {
 public:
  using Eviction::Eviction;
  int64_t n_queries() const override { return kSnapQueries; }

 protected:
  std::vector<int64_t> Kept(const LayerContext& context, int kv_head,
                            int64_t n_kept) const override {
    const std::vector<float> scores = SnapScores(context, kv_head);
    std::vector<int64_t> tokens(scores.size());
    std::iota(tokens.begin(), tokens.end(), 0);
    std::stable_sort(tokens.begin(), tokens.end(),
                     [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
    tokens.resize(n_kept);
    std::sort(tokens.begin(), tokens.end());
    return tokens;
  }
};

class Streaming : public Eviction {
 public:
  using Eviction::Eviction;

 protected:
  std::vector<int64_t> Kept(const LayerContext& context, int, int64_t n_kept) const override {
    std::vector<int64_t> tokens(n_kept);
    for (int64_t i = 0; i < n_kept; ++i) {
      tokens[i] = i < kStreamingSinks ? i : context.n_coded - n_kept + i;
    }
    return tokens;
  }
};

// Adds to sums[n_coded] what one query at `position` attends to.
void AddAttention(const LayerContext& context, int kv_head, const float* q, int64_t position,
                  std::vector<float>& sums) {
  const RowShape& shape = context.shape;
  const double scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
  std::vector<double> weights(position + 1);
  for (int64_t t = 0; t <= position; ++t) {
    const float* k = &context.k[t * shape.row_dim() + kv_head * shape.head_dim];
    weights[t] = scale * std::inner_product(k, k + shape.head_dim, q, 0.0f);
  }
  const double max = *std::max_element(weights.begin(), weights.end());
  double sum = 0;
  for (double& weight : weights) sum += weight = std::exp(weight - max);
  for (int64_t t = 0; t < context.n_coded; ++t) sums[t] += static_cast<float>(weights[t] / sum);
}

}  // namespace

int64_t KeptTokens(const RowShape& shape, int64_t n_coded, int bytes) {
  return std::min(n_coded,
                  static_cast<int64_t>(static_cast<double>(n_coded) * bytes / shape.fp16_bytes()));
}

std::vector<float> SnapScores(const LayerContext& context, int kv_head) {
  const RowShape& shape = context.shape;
  const int group = shape.n_heads / shape.n_kv_heads;
  const int64_t q_dim = static_cast<int64_t>(shape.n_heads) * shape.head_dim;
  const int64_t n_given = static_cast<int64_t>(context.q.size()) / q_dim;
  const int64_t n_queries = std::min(n_given, kSnapQueries);
  std::vector<float> sums(context.n_coded);
  for (int64_t i = 0; i < n_queries; ++i) {
    for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const int64_t row = n_given - n_queries + i;
      AddAttention(context, kv_head, &context.q[row * q_dim + head * shape.head_dim],
                   context.n_tokens - n_queries + i, sums);
    }
  }
  std::vector<float> pooled(context.n_coded);
  for (int64_t t = 0; t < context.n_coded; ++t) {
    const int64_t first = std::max<int64_t>(0, t - kSnapPool / 2);
    const int64_t last = std::min(context.n_coded - 1, t + kSnapPool / 2);
    pooled[t] = *std::max_element(sums.begin() + first, sums.begin() + last + 1);
  }
  return pooled;
}

std::unique_ptr<const Rival> MakeSnapKv(std::string name, int bytes) {
  return std::make_unique<SnapKv>(std::move(name), bytes);
}
std::unique_ptr<const Rival> MakeStreaming(std::string name, int bytes) {
  return std::make_unique<Streaming>(std::move(name), bytes);
}

}  // namespace lexico::eval

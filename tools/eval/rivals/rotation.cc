#include "tools/eval/rivals/rotation.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <numbers>
#include <utility>

#include "kernels/cpu/convert.h"
#include "proto/base/check.h"
#include "proto/base/split_mix.h"

namespace lexico::eval {
namespace {

constexpr uint64_t kSignSeed = 0;
constexpr double kScaleBytes = 2;

float ToHalf(float x) { return kernels::cpu::F16ToFloat(kernels::cpu::FloatToF16(x)); }

double Density(double x) {
  return std::exp(-0.5 * x * x) * std::numbers::inv_sqrtpi / std::numbers::sqrt2;
}
// Of channel i.
float RandomSign(int i) {
  const uint64_t step = static_cast<uint64_t>(i) + 1;
  return (base::SplitMixFinish(kSignSeed + step * base::kSplitMixStep) >> 63) != 0 ? -1.0f : 1.0f;
}
double Below(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }

class Rotation : public Rival {
 public:
  Rotation(std::string name, int bits, bool unbiased)
      : Rival(std::move(name)), bits_(bits), unbiased_(unbiased), levels_(LloydMaxLevels(bits)) {}

  absl::Status Check(const RowShape& shape) const override {
    if (std::has_single_bit(static_cast<unsigned>(shape.head_dim))) return absl::OkStatus();
    return absl::InvalidArgumentError(
        fmt::format("{} rotates by a Hadamard matrix of 2^n rows, head_dim is {}; use kivi-N or "
                    "token-N",
                    name(), shape.head_dim));
  }

  double BytesPerVector(const RowShape& shape, int64_t) const override {
    return shape.head_dim * bits_ / 8.0 + kScaleBytes;
  }

  LayerRows Compress(const LayerContext& context) const override {
    const int dim = context.shape.head_dim;
    const int64_t n = context.n_coded * context.shape.row_dim();
    std::vector<float> signs(dim);
    for (int i = 0; i < dim; ++i) signs[i] = RandomSign(i);
    LayerRows rows{{context.k.begin(), context.k.begin() + n},
                   {context.v.begin(), context.v.begin() + n}};
    for (std::vector<float>* kind : {&rows.k, &rows.v}) {
      for (int64_t at = 0; at < n; at += dim) Replace({kind->data() + at, signs.size()}, signs);
    }
    return rows;
  }

 private:
  float Nearest(float x) const {
    float best = static_cast<float>(levels_[0]);
    for (const double level : levels_) {
      const auto candidate = static_cast<float>(level);
      if (std::abs(x - candidate) < std::abs(x - best)) best = candidate;
    }
    return best;
  }

  void Replace(std::span<float> x, std::span<const float> signs) const {
    double square = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] *= signs[i];
      square += static_cast<double>(x[i]) * x[i];
    }
    HadamardTransform(x);
    const auto norm = static_cast<float>(std::sqrt(square / static_cast<double>(x.size())));
    float scale = ToHalf(norm);
    if (scale > 0) {
      double product = 0;
      for (float& z : x) {
        const float level = Nearest(z / scale);
        product += static_cast<double>(z) * level;
        z = level;
      }
      if (unbiased_) scale = ToHalf(static_cast<float>(square / product));
    }
    for (float& z : x) z *= scale;
    HadamardTransform(x);
    for (size_t i = 0; i < x.size(); ++i) x[i] *= signs[i];
  }

  const int bits_;
  const bool unbiased_;
  const std::vector<double> levels_;
};

}  // namespace

std::vector<double> LloydMaxLevels(int bits) {
  // Of the positive half; the levels are symmetric. Lloyd's iteration converges linearly: after
  // 2,000 rounds the levels of up to 4 bits no longer change.
  const int n = 1 << (bits - 1);
  std::vector<double> half(n);
  for (int i = 0; i < n; ++i) half[i] = 2.5 * (i + 0.5) / n;
  for (int round = 0; round < 2000; ++round) {
    std::vector<double> next(n);
    for (int i = 0; i < n; ++i) {
      const double from = i == 0 ? 0 : (half[i - 1] + half[i]) / 2;
      const bool last = i == n - 1;
      const double to = last ? 0 : (half[i] + half[i + 1]) / 2;
      const double weight = (last ? 1 : Below(to)) - Below(from);
      next[i] = (Density(from) - (last ? 0 : Density(to))) / weight;
    }
    half = std::move(next);
  }
  std::vector<double> levels;
  for (int i = n - 1; i >= 0; --i) levels.push_back(-half[i]);
  levels.insert(levels.end(), half.begin(), half.end());
  return levels;
}

void HadamardTransform(std::span<float> x) {
  LEXICO_CHECK(std::has_single_bit(x.size()));
  for (size_t half = 1; half < x.size(); half *= 2) {
    for (size_t begin = 0; begin < x.size(); begin += 2 * half) {
      for (size_t i = begin; i < begin + half; ++i) {
        const float a = x[i];
        const float b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
  }
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(x.size())));
  for (float& value : x) value *= scale;
}

std::unique_ptr<const Rival> MakeRotation(std::string name, int bits, bool unbiased) {
  return std::make_unique<Rotation>(std::move(name), bits, unbiased);
}

}  // namespace lexico::eval

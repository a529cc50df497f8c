#include "tools/eval/rivals/group_quantizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/cpu/convert.h"

namespace lexico::eval {
namespace {

// The smallest positive FP16: the scale of a group whose numbers are all equal.
constexpr float kScaleMin = 5.9604645e-8f;
constexpr double kGroupBytes = 4;  // zero point and scale

float ToHalf(float x) { return kernels::cpu::F16ToFloat(kernels::cpu::FloatToF16(x)); }

class GroupQuantizer : public Rival {
 public:
  GroupQuantizer(std::string name, int bits, KeyGroups keys)
      : Rival(std::move(name)), bits_(bits), keys_(keys) {}

  absl::Status Check(const RowShape& shape) const override {
    if (shape.head_dim % GroupOf(shape) == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        fmt::format("{} takes groups of {} channels, head_dim is {}; use rotate-N or an eviction",
                    name(), kQuantizerGroup, shape.head_dim));
  }

  double BytesPerVector(const RowShape& shape, int64_t) const override {
    const double integers = shape.head_dim * bits_ / 8.0;
    const auto bytes = [&](double group) {
      return integers + shape.head_dim / group * kGroupBytes;
    };
    const double values = bytes(GroupOf(shape));
    return (values + (keys_ == KeyGroups::kPerChannel ? bytes(kQuantizerGroup) : values)) / 2;
  }

  LayerRows Compress(const LayerContext& context) const override {
    const int64_t n = context.n_coded * context.shape.row_dim();
    LayerRows rows{{context.k.begin(), context.k.begin() + n},
                   {context.v.begin(), context.v.begin() + n}};
    if (keys_ == KeyGroups::kPerChannel) {
      PerChannel(context, rows.k);
    } else {
      PerToken(context.shape, rows.k);
    }
    PerToken(context.shape, rows.v);
    return rows;
  }

 private:
  static int GroupOf(const RowShape& shape) { return std::min(kQuantizerGroup, shape.head_dim); }

  void PerToken(const RowShape& shape, std::vector<float>& rows) const {
    const int group = GroupOf(shape);
    for (size_t at = 0; at < rows.size(); at += group) QuantizeGroup(&rows[at], 1, group, bits_);
  }
  void PerChannel(const LayerContext& context, std::vector<float>& rows) const {
    const int64_t width = context.shape.row_dim();
    for (int64_t token = 0; token < context.n_coded; token += kQuantizerGroup) {
      const int64_t n = std::min<int64_t>(kQuantizerGroup, context.n_coded - token);
      for (int64_t channel = 0; channel < width; ++channel) {
        QuantizeGroup(&rows[token * width + channel], width, n, bits_);
      }
    }
  }

  const int bits_;
  const KeyGroups keys_;
};

}  // namespace

void QuantizeGroup(float* x, int64_t stride, int64_t n, int bits) {
  float low = x[0];
  float high = x[0];
  for (int64_t i = 1; i < n; ++i) {
    low = std::min(low, x[i * stride]);
    high = std::max(high, x[i * stride]);
  }
  const auto top = static_cast<float>((1 << bits) - 1);
  const float zero = ToHalf(low);
  const float scale = std::max(kScaleMin, ToHalf((high - low) / top));
  for (int64_t i = 0; i < n; ++i) {
    float& value = x[i * stride];
    value = zero + scale * std::clamp(std::nearbyint((value - zero) / scale), 0.0f, top);
  }
}

std::unique_ptr<const Rival> MakeGroupQuantizer(std::string name, int bits, KeyGroups keys) {
  return std::make_unique<GroupQuantizer>(std::move(name), bits, keys);
}

}  // namespace lexico::eval

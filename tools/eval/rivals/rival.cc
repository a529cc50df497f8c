#include "tools/eval/rivals/rival.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>

#include "proto/base/options.h"
#include "tools/eval/rivals/eviction.h"
#include "tools/eval/rivals/group_quantizer.h"
#include "tools/eval/rivals/rotation.h"

namespace lexico::eval {
namespace {

constexpr int kRotationBits[] = {1, 2, 3, 4};
constexpr int kIntegerBits[] = {2, 4};

class Exact : public Rival {
 public:
  using Rival::Rival;
  absl::Status Check(const RowShape&) const override { return absl::OkStatus(); }
  double BytesPerVector(const RowShape& shape, int64_t) const override {
    return shape.fp16_bytes();
  }
  LayerRows Compress(const LayerContext& context) const override {
    const int64_t n = context.n_coded * context.shape.row_dim();
    return {{context.k.begin(), context.k.begin() + n}, {context.v.begin(), context.v.begin() + n}};
  }
};

// "snapkv" or "snapkv-48" of `family` "snapkv"; 0 where `name` is neither.
absl::StatusOr<int> EvictionBytes(std::string_view name, std::string_view family,
                                  int default_bytes) {
  if (name == family) return default_bytes;
  if (!name.starts_with(family) || name[family.size()] != '-') return 0;
  const std::string_view digits = name.substr(family.size() + 1);
  int bytes = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), bytes);
  if (error == std::errc() && end == digits.data() + digits.size() && bytes > 0) return bytes;
  return absl::InvalidArgumentError(
      fmt::format("{}: '{}' is no budget; write the bytes of a vector, as in {}-48",
                  std::string(name), std::string(digits), std::string(family)));
}

}  // namespace

std::vector<std::string> RivalNames() {
  std::vector<std::string> names = {"exact"};
  for (const char* family : {"kivi", "token"}) {
    for (const int bits : kIntegerBits) names.push_back(fmt::format("{}-{}", family, bits));
  }
  for (const int bits : kRotationBits) {
    names.push_back(fmt::format("rotate-{}", bits));
    names.push_back(fmt::format("rotate-{}-unbiased", bits));
  }
  names.insert(names.end(), {"snapkv", "streaming"});
  return names;
}

absl::StatusOr<std::unique_ptr<const Rival>> ParseRival(std::string_view name, int eviction_bytes) {
  std::string text(name);
  if (name == "exact") return std::make_unique<Exact>(text);
  for (const int bits : kIntegerBits) {
    if (text == fmt::format("kivi-{}", bits)) {
      return MakeGroupQuantizer(text, bits, KeyGroups::kPerChannel);
    }
    if (text == fmt::format("token-{}", bits)) {
      return MakeGroupQuantizer(text, bits, KeyGroups::kPerToken);
    }
  }
  for (const int bits : kRotationBits) {
    if (text == fmt::format("rotate-{}", bits)) return MakeRotation(text, bits, false);
    if (text == fmt::format("rotate-{}-unbiased", bits)) return MakeRotation(text, bits, true);
  }
  const auto snap = EvictionBytes(name, "snapkv", eviction_bytes);
  if (!snap.ok()) return snap.status();
  if (*snap > 0) return MakeSnapKv(text, *snap);
  const auto streaming = EvictionBytes(name, "streaming", eviction_bytes);
  if (!streaming.ok()) return streaming.status();
  if (*streaming > 0) return MakeStreaming(text, *streaming);
  const std::string nearest = base::NearestName(name, RivalNames());
  return absl::NotFoundError(fmt::format(
      "no rival '{}'; known are {}, snapkv-BYTES and "
      "streaming-BYTES{}",
      text, fmt::join(RivalNames(), ", "), nearest.empty() ? "" : "; nearest is " + nearest));
}

}  // namespace lexico::eval

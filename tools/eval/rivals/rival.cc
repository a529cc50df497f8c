#include "tools/eval/rivals/rival.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>

#include "proto/base/options.h"
#include "proto/base/status.h"
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

using Rivals = std::vector<std::unique_ptr<const Rival>>;

// Of "snapkv-48", the family "snapkv" taken off.
absl::StatusOr<int> ParseBudget(std::string_view name, std::string_view family) {
  const std::string_view digits = name.substr(family.size() + 1);
  int bytes = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), bytes);
  if (error == std::errc() && end == digits.data() + digits.size() && bytes > 0) return bytes;
  return absl::InvalidArgumentError(
      fmt::format("{}: '{}' is no budget; write the bytes of a vector, as in {}-48",
                  std::string(name), std::string(digits), std::string(family)));
}

// Empty where `name` is none of the family.
absl::StatusOr<Rivals> ParseEviction(std::string_view name, std::string_view family,
                                     std::unique_ptr<const Rival> (*make)(std::string, int),
                                     std::span<const int> budgets) {
  Rivals rivals;
  if (name == family) {
    for (const int bytes : budgets) {
      rivals.push_back(make(fmt::format("{}-{}", std::string(family), bytes), bytes));
    }
  } else if (name.starts_with(family) && name[family.size()] == '-') {
    LEXICO_ASSIGN_OR_RETURN(const int bytes, ParseBudget(name, family));
    rivals.push_back(make(std::string(name), bytes));
  }
  return rivals;
}

// Null where `name` is no quantizer.
std::unique_ptr<const Rival> ParseQuantizer(const std::string& name) {
  if (name == "exact") return std::make_unique<Exact>(name);
  for (const int bits : kIntegerBits) {
    if (name == fmt::format("kivi-{}", bits)) {
      return MakeGroupQuantizer(name, bits, KeyGroups::kPerChannel);
    }
    if (name == fmt::format("token-{}", bits)) {
      return MakeGroupQuantizer(name, bits, KeyGroups::kPerToken);
    }
  }
  for (const int bits : kRotationBits) {
    if (name == fmt::format("rotate-{}", bits)) return MakeRotation(name, bits, false);
    if (name == fmt::format("rotate-{}-unbiased", bits)) return MakeRotation(name, bits, true);
  }
  return nullptr;
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

absl::StatusOr<Rivals> ParseRival(std::string_view name, std::span<const int> budgets) {
  Rivals rivals;
  if (auto quantizer = ParseQuantizer(std::string(name))) {
    rivals.push_back(std::move(quantizer));
    return rivals;
  }
  LEXICO_ASSIGN_OR_RETURN(rivals, ParseEviction(name, "snapkv", MakeSnapKv, budgets));
  if (!rivals.empty()) return rivals;
  LEXICO_ASSIGN_OR_RETURN(rivals, ParseEviction(name, "streaming", MakeStreaming, budgets));
  if (!rivals.empty()) return rivals;
  const std::string nearest = base::NearestName(name, RivalNames());
  return absl::NotFoundError(fmt::format(
      "no rival '{}'; known are {}, snapkv-BYTES and streaming-BYTES{}", std::string(name),
      fmt::join(RivalNames(), ", "), nearest.empty() ? "" : "; nearest is " + nearest));
}

}  // namespace lexico::eval

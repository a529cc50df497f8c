#include "worker/kv/profile.h"

#include <fmt/format.h>

#include <charconv>
#include <vector>

#include "proto/base/options.h"

namespace lexico::worker {
namespace {

constexpr std::string_view kPaperPrefix = "paper-s";

std::vector<std::string> KnownNames() {
  std::vector<std::string> names = {"dense"};
  for (int s = 1; s <= base::kSparsityMax; ++s) names.push_back(fmt::format("paper-s{}", s));
  return names;
}

}  // namespace

absl::StatusOr<Profile> ParseProfile(std::string_view name) {
  if (name.empty()) name = kDefaultProfile;
  if (name == "dense") return Profile{.name = "dense"};
  if (name.starts_with(kPaperPrefix)) {
    const std::string_view digits = name.substr(kPaperPrefix.size());
    int sparsity = 0;
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), sparsity);
    // One spelling a profile: its name is part of page keys.
    if (error == std::errc() && end == digits.data() + digits.size() && sparsity >= 1 &&
        sparsity <= base::kSparsityMax && digits[0] != '0') {
      return Profile{.name = std::string(name), .sparsity_k = sparsity, .sparsity_v = sparsity};
    }
  }
  const std::string nearest = base::NearestName(name, KnownNames());
  return absl::NotFoundError(fmt::format(
      "no profile '{}'; known are dense and paper-s1 to paper-s{}{}", name, base::kSparsityMax,
      nearest.empty() ? "" : fmt::format("; nearest is {}", nearest)));
}

}  // namespace lexico::worker

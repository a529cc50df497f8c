#include "proto/base/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "proto/base/limits.h"
#include "proto/base/options.h"

namespace lexico::base {
namespace {

constexpr std::string_view kPaperPrefix = "paper-s";
constexpr int kListedSparsities[] = {2, 4, 8, 12, 16, 24, 32};

std::string PaperName(int sparsity) { return fmt::format("{}{}", kPaperPrefix, sparsity); }

std::vector<std::string> KnownNames() {
  std::vector<std::string> names = {"dense"};
  for (int s = 1; s <= kSparsityMax; ++s) names.push_back(PaperName(s));
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
        sparsity <= kSparsityMax && digits[0] != '0') {
      return Profile{.name = std::string(name), .sparsity_k = sparsity, .sparsity_v = sparsity};
    }
  }
  const std::string nearest = NearestName(name, KnownNames());
  return absl::NotFoundError(
      fmt::format("no profile '{}'; known are {}{}", name, AllowedProfiles(kSparsityMax),
                  nearest.empty() ? "" : fmt::format("; nearest is {}", nearest)));
}

int SparsityMax(int head_dim, int n_atoms) {
  return n_atoms == 0 ? 0 : std::min(kSparsityMax, head_dim);
}

std::string AllowedProfiles(int sparsity_max) {
  if (sparsity_max == 0) return "dense";
  return fmt::format("dense and {} to {}", PaperName(1), PaperName(sparsity_max));
}

absl::Status CheckProfile(const Profile& profile, int sparsity_max) {
  const int sparsity = std::max(profile.sparsity_k, profile.sparsity_v);
  if (sparsity <= sparsity_max) return absl::OkStatus();
  if (sparsity_max == 0) {
    return absl::FailedPreconditionError(
        fmt::format("profile {} needs dictionaries and the model has none; use dense, or start the "
                    "worker with --dictionary",
                    profile.name));
  }
  return absl::FailedPreconditionError(
      fmt::format("profile {} takes {} atoms a vector, the model at most {}; allowed are {}",
                  profile.name, sparsity, sparsity_max, AllowedProfiles(sparsity_max)));
}

std::vector<std::string> ListedProfiles(int sparsity_max) {
  std::vector<std::string> names = {"dense"};
  for (const int sparsity : kListedSparsities) {
    if (sparsity <= sparsity_max) names.push_back(PaperName(sparsity));
  }
  const auto first = std::find(names.begin(), names.end(), kDefaultProfile);
  if (first != names.end()) std::rotate(names.begin(), first, first + 1);
  return names;
}

}  // namespace lexico::base

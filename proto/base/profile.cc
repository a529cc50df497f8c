#include "proto/base/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "proto/base/limits.h"
#include "proto/base/options.h"
#include "proto/base/status.h"

namespace lexico::base {
namespace {

constexpr std::string_view kPaperPrefix = "paper-s";
constexpr int kListedSparsities[] = {2, 4, 8, 12, 16, 24, 32};
// The best that were measured at 18, 28, 34, 40 and 50 bytes at head_dim 128 (docs/fidelity.md),
// and what models without dictionaries have.
constexpr std::string_view kListedMembers[] = {"k4r1-v3",    "k2r2u-v7", "k2r2u-v4r1",
                                               "k0r3u-v5r1", "kv0r2u",   "kv0r3u"};

std::string PaperName(int sparsity) { return fmt::format("{}{}", kPaperPrefix, sparsity); }

std::string CodeName(const VectorCode& code) {
  std::string name = fmt::format("{}", code.sparsity);
  if (code.sparsity > 0 && !code.is_packed()) name += "f8";
  if (code.has_residual()) name += fmt::format("r{}", code.form.residual_bits);
  if (code.form.unbiased) name += "u";
  return name;
}

std::string ProfileName(const VectorCode& k, const VectorCode& v) {
  if (k == v && k.is_paper()) return PaperName(k.sparsity);
  if (k == v) return "kv" + CodeName(k);
  return fmt::format("k{}-v{}", CodeName(k), CodeName(v));
}

std::vector<std::string> KnownNames() {
  std::vector<std::string> names = {"dense"};
  for (int s = 1; s <= kSparsityMax; ++s) names.push_back(PaperName(s));
  names.insert(names.end(), std::begin(kListedMembers), std::end(kListedMembers));
  return names;
}

// Takes `token` off the front of `text` if it is there.
bool Take(std::string_view token, std::string_view* text) {
  if (!text->starts_with(token)) return false;
  text->remove_prefix(token.size());
  return true;
}

// A number 0 .. max without leading zeros.
std::optional<int> TakeNumber(int max, std::string_view* text) {
  int number = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
  const auto length = static_cast<size_t>(end - text->data());
  if (error != std::errc() || number < 0 || number > max) return std::nullopt;
  if (length > 1 && text->front() == '0') return std::nullopt;
  text->remove_prefix(length);
  return number;
}

std::optional<VectorCode> TakeCode(std::string_view* text) {
  VectorCode code;
  const auto sparsity = TakeNumber(kSparsityMax, text);
  if (!sparsity.has_value()) return std::nullopt;
  code.sparsity = *sparsity;
  const bool f8 = Take("f8", text);
  // Without atoms there are no coefficients to name, and one way to write that.
  if (f8 && code.sparsity == 0) return std::nullopt;
  code.form.coefficient_bits = f8 || code.sparsity == 0 ? 8 : 4;
  if (Take("r", text)) {
    const auto bits = TakeNumber(kResidualBitsMax, text);
    if (!bits.has_value() || *bits == 0) return std::nullopt;
    code.form.residual_bits = *bits;
  }
  code.form.unbiased = Take("u", text);
  if (code.is_empty()) return std::nullopt;
  return code;
}

std::optional<Profile> ParseFamily(std::string_view text) {
  Profile profile;
  const bool both = Take("kv", &text);
  if (!both && !Take("k", &text)) return std::nullopt;
  const auto k = TakeCode(&text);
  if (!k.has_value()) return std::nullopt;
  profile.k = profile.v = *k;
  if (!both) {
    if (!Take("-v", &text)) return std::nullopt;
    const auto v = TakeCode(&text);
    if (!v.has_value()) return std::nullopt;
    profile.v = *v;
  }
  if (!text.empty()) return std::nullopt;
  profile.name = ProfileName(profile.k, profile.v);
  return profile;
}

std::optional<Profile> ParsePaper(std::string_view text) {
  if (!Take(kPaperPrefix, &text)) return std::nullopt;
  const auto sparsity = TakeNumber(kSparsityMax, &text);
  if (!sparsity.has_value() || *sparsity == 0 || !text.empty()) return std::nullopt;
  const VectorCode code{.sparsity = *sparsity, .form = {}};
  return Profile{.name = PaperName(*sparsity), .k = code, .v = code};
}

absl::Status NoDictionaries(const Profile& profile) {
  return absl::FailedPreconditionError(
      fmt::format("profile {} needs dictionaries and the model has none; use dense, or start the "
                  "worker with --dictionary",
                  profile.name));
}

absl::Status CheckCode(const Profile& profile, const VectorCode& code, const CodingModel& model) {
  if (code.sparsity > SparsityMax(model)) {
    if (model.n_atoms == 0) return NoDictionaries(profile);
    return absl::FailedPreconditionError(
        fmt::format("profile {} takes {} atoms a vector, the model at most {}; allowed are {}",
                    profile.name, code.sparsity, SparsityMax(model), AllowedProfiles(model)));
  }
  if (code.is_packed() && model.n_atoms > kPackedAtomsMax) {
    return absl::FailedPreconditionError(fmt::format(
        "profile {} packs indices of at most {} atoms and the dictionary has {}; use FP8 "
        "coefficients, as in kv{}f8{}",
        profile.name, kPackedAtomsMax, model.n_atoms, code.sparsity,
        CodeName(code).substr(fmt::format("{}", code.sparsity).size())));
  }
  if (code.has_residual() && !CanRotate(model.head_dim)) {
    return absl::FailedPreconditionError(fmt::format(
        "profile {} rotates residuals, which takes a head_dim that is a power of two of at least "
        "{}; the model's is {}; use atoms alone, as in kv16",
        profile.name, kResidualDimMin, model.head_dim));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Profile> ParseProfile(std::string_view name) {
  if (name.empty()) name = kDefaultProfile;
  if (name == "dense") return Profile{.name = "dense"};
  if (auto paper = ParsePaper(name)) return *std::move(paper);
  if (auto member = ParseFamily(name)) {
    if (member->name == name) return *std::move(member);
    return absl::NotFoundError(
        fmt::format("no profile '{}'; the name of that code is {}", name, member->name));
  }
  const std::string nearest = NearestName(name, KnownNames());
  return absl::NotFoundError(
      fmt::format("no profile '{}'; known are {}{}", name,
                  AllowedProfiles({.head_dim = kHeadDimMax, .n_atoms = kPackedAtomsMax}),
                  nearest.empty() ? "" : fmt::format("; nearest is {}", nearest)));
}

int SparsityMax(const CodingModel& model) {
  return model.n_atoms == 0 ? 0 : std::min(kSparsityMax, model.head_dim);
}

std::string AllowedProfiles(const CodingModel& model) {
  const int sparsity_max = SparsityMax(model);
  const bool residuals = CanRotate(model.head_dim);
  if (sparsity_max == 0) return residuals ? "dense, kv0r1, kv0r2u and kv0r3u" : "dense";
  return fmt::format("dense and {} to {}, and codes {}", PaperName(1), PaperName(sparsity_max),
                     residuals ? "such as kv4r1" : "as kv16");
}

absl::Status CheckProfile(const Profile& profile, const CodingModel& model) {
  if (profile.is_dense()) return absl::OkStatus();
  LEXICO_RETURN_IF_ERROR(CheckCode(profile, profile.k, model));
  return CheckCode(profile, profile.v, model);
}

std::vector<std::string> ListedProfiles(const CodingModel& model) {
  std::vector<std::string> names = {"dense"};
  for (const int sparsity : kListedSparsities) {
    if (sparsity <= SparsityMax(model)) names.push_back(PaperName(sparsity));
  }
  for (const std::string_view name : kListedMembers) {
    if (CheckProfile(*ParseProfile(name), model).ok()) names.emplace_back(name);
  }
  const auto first = std::find(names.begin(), names.end(), kDefaultProfile);
  if (first != names.end()) std::rotate(names.begin(), first, first + 1);
  return names;
}

}  // namespace lexico::base

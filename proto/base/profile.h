// A profile: a named way to code the vectors of a session, constant over its life.
//
//   dense      sealed pages keep the vectors themselves in the model's cache type
//   paper-sN   OMP with N atoms a vector (K and V alike) and FP8 coefficients, as in arXiv
//              2412.08890; 1 <= N <= SparsityMax of the model
//
// Every profile keeps the newest kWindowTokens tokens exact and seals kPageTokens at a time.
//
// The one rule of which profiles a model has, for the worker that codes and the coordinator that
// answers clients.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lexico::base {

// The profile of a session that names none: 18.75 % of FP16 for the codes, and 47 of 48 retrieval
// answers at 16 k tokens on the embedded model where the exact cache has 48 (docs/performance.md).
inline constexpr std::string_view kDefaultProfile = "paper-s16";

struct Profile {
  std::string name;
  int sparsity_k = 0;  // 0 and 0: dense
  int sparsity_v = 0;

  bool is_dense() const { return sparsity_k == 0; }
  bool operator==(const Profile&) const = default;
};

// `name` empty: the default. NotFound names the known forms and, where there is one, the nearest.
absl::StatusOr<Profile> ParseProfile(std::string_view name);

// The most atoms a vector of a model can have: min(limits.h kSparsityMax, head_dim), and 0 where
// the model has no dictionaries (`n_atoms` 0).
int SparsityMax(int head_dim, int n_atoms);

// For messages: "dense and paper-s1 to paper-s32", or "dense" alone.
std::string AllowedProfiles(int sparsity_max);

// FailedPrecondition for a profile of more atoms, with the allowed ones.
absl::Status CheckProfile(const Profile& profile, int sparsity_max);

// What a model is announced with, the default first (paper-s16; dense where that does not fit):
// dense and some sparsities that fit. Those between can be asked for by name as well.
std::vector<std::string> ListedProfiles(int sparsity_max);

}  // namespace lexico::base

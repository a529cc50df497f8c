// A profile: a named way to code the vectors of a session, constant over its life.
//
//   dense      sealed pages keep the vectors themselves in the model's cache type
//   paper-sN   OMP with N atoms a vector (K and V alike) and FP8 coefficients, as in arXiv
//              2412.08890; 1 <= N <= limits.h kSparsityMax
//
// Every profile keeps the newest kWindowTokens tokens exact and seals kSealTokens at a time.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "proto/base/limits.h"

namespace lexico::worker {

// n_a of the paper. Equal to page_tokens, so that one sealing makes one page a layer.
inline constexpr int kSealTokens = base::kPageTokens;

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

}  // namespace lexico::worker

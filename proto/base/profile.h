// A profile: a named way to code the vectors of a session, constant over its life.
//
//   dense      sealed pages keep the vectors themselves in the model's cache type
//   paper-sN   OMP with N atoms a vector (K and V alike) and FP8 coefficients, as in arXiv
//              2412.08890
//   kvCODE     both coded as CODE; kCODE-vCODE: each as its own
//
//   CODE = N ["f8"] ["r"B] ["u"]
//     N   atoms a vector, 0 to the model's SparsityMax
//     f8  coefficients are FP8; otherwise 4 bits with a scale a vector
//     rB  a rotated residual of B = 1, 2 or 3 bits a number
//     u   the scales are unbiased (kernels/api/quantize_codes.h)
//
// Such as kv4r1, kv2r2u, k2r2u-v4r1, kv16u: docs/adr/0015-profile-family.md.
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
#include "proto/base/vector_code.h"

namespace lexico::base {

// The profile of a session that names none: 18.75 % of FP16 for the codes, and 47 of 48 retrieval
// answers at 16 k tokens on the embedded model where the exact cache has 48 (docs/performance.md).
inline constexpr std::string_view kDefaultProfile = "paper-s16";

struct Profile {
  std::string name;
  VectorCode k;  // both empty: dense
  VectorCode v;

  bool is_dense() const { return k.is_empty(); }
  bool is_paper() const { return k.is_paper() && v.is_paper(); }
  bool has_atoms() const { return k.sparsity > 0 || v.sparsity > 0; }
  bool operator==(const Profile&) const = default;
};

// `name` empty: the default. NotFound names the known forms and, where there is one, the nearest,
// or the one spelling of what was meant: a profile's name is part of page keys.
absl::StatusOr<Profile> ParseProfile(std::string_view name);

// What profiles depend on.
struct CodingModel {
  int head_dim = 0;
  int n_atoms = 0;  // 0: no dictionaries
};

// The most atoms a vector of a model can have: min(limits.h kSparsityMax, head_dim), and 0 where
// the model has no dictionaries.
int SparsityMax(const CodingModel& model);

// For messages: "dense, paper-s1 to paper-s32, and ...", or "dense" alone.
std::string AllowedProfiles(const CodingModel& model);

// FailedPrecondition, with the remedy, for a profile that the model does not have.
absl::Status CheckProfile(const Profile& profile, const CodingModel& model);

// What a model is announced with, the default first (paper-s16; dense where that does not fit):
// dense, some sparsities that fit and some of the family. Others can be asked for by name as well.
std::vector<std::string> ListedProfiles(const CodingModel& model);

}  // namespace lexico::base

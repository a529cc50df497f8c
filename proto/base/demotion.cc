#include "proto/base/demotion.h"

#include <fmt/format.h>

namespace lexico::base {
namespace {

bool IsSmallerOrEqual(const VectorCode& from, const VectorCode& to) {
  return to.sparsity <= from.sparsity && to.form.residual_bits <= from.form.residual_bits;
}

bool IsOfSameForm(const VectorCode& from, const VectorCode& to) {
  return from.form.unbiased == to.form.unbiased &&
         (to.sparsity == 0 || from.form.coefficient_bits == to.form.coefficient_bits);
}

}  // namespace

absl::Status CheckDemotion(const Profile& from, const Profile& to) {
  if (from.is_dense() || to.is_dense()) {
    return absl::FailedPreconditionError(
        fmt::format("a demotion makes codes of codes, and of {} and {} one is dense; append the "
                    "text to a new session instead",
                    from.name, to.name));
  }
  if (!IsSmallerOrEqual(from.k, to.k) || !IsSmallerOrEqual(from.v, to.v) ||
      (from.k == to.k && from.v == to.v)) {
    return absl::FailedPreconditionError(
        fmt::format("the session has profile {}, and {} has not fewer atoms or residual bits; what "
                    "was left out of a code cannot come back: append the text to a new session",
                    from.name, to.name));
  }
  if (!IsOfSameForm(from.k, to.k) || !IsOfSameForm(from.v, to.v)) {
    return absl::FailedPreconditionError(
        fmt::format("the session has profile {}, and {} has other coefficient bits or scales; a "
                    "demotion keeps them, as from paper-s16 to paper-s8 or from kv16 to kv8",
                    from.name, to.name));
  }
  if (from.has_atoms() && !to.has_atoms()) {
    return absl::FailedPreconditionError(
        fmt::format("the session has profile {}, and {} has no atoms; a demotion leaves some, so "
                    "that its pages name the dictionary they come from",
                    from.name, to.name));
  }
  return absl::OkStatus();
}

}  // namespace lexico::base

// Which profiles a session can be demoted to: fewer atoms, or fewer residual bits, of the same form
// (docs/adr/0016-exact-demotion.md). What is left of a session's codes is made from them alone
// (kernels/api/demote_codes.h), so nothing can be asked for that they do not have.
#pragma once

#include "absl/status/status.h"
#include "proto/base/profile.h"

namespace lexico::base {

// OK where `to` is a demotion of `from`: in K and in V no more atoms and residual bits, in one of
// them fewer; where atoms stay, with as many coefficient bits, and as unbiased as before; and some
// atoms stay if there were any.
// FailedPrecondition otherwise, with both and the remedy: equal or larger, another form, or dense.
absl::Status CheckDemotion(const Profile& from, const Profile& to);

}  // namespace lexico::base

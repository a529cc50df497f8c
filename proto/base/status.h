// Propagation of absl::Status without exceptions.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns from the enclosing function when `expression` (absl::Status) is not OK.
#define LEXICO_RETURN_IF_ERROR(expression)                                                    \
  do {                                                                                        \
    if (absl::Status lexico_status = (expression); !lexico_status.ok()) return lexico_status; \
  } while (false)

#define LEXICO_CONCAT_INNER_(a, b) a##b
#define LEXICO_CONCAT_(a, b) LEXICO_CONCAT_INNER_(a, b)

// LEXICO_ASSIGN_OR_RETURN(auto model, Model::Load(dir)); returns the status when it is not OK.
#define LEXICO_ASSIGN_OR_RETURN(lhs, expression) \
  LEXICO_ASSIGN_OR_RETURN_(LEXICO_CONCAT_(lexico_status_or_, __LINE__), lhs, expression)
#define LEXICO_ASSIGN_OR_RETURN_(result, lhs, expression) \
  auto result = (expression);                             \
  if (!result.ok()) return result.status();               \
  lhs = std::move(result).value()

namespace lexico::base {

// The same code with "<context>: " in front of the message; OK stays OK.
absl::Status Annotate(const absl::Status& status, std::string_view context);

}  // namespace lexico::base

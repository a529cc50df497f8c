// Replaces every match of a string or regular expression by a fixed string.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "worker/tokenizer/component.h"
#include "worker/tokenizer/regex.h"

namespace lexico::worker {

// Thread safety: immutable; all methods may be called from any thread.
class Replacer {
 public:
  // From a component {"pattern": {"String" | "Regex": ...}, "content": "..."}.
  static absl::StatusOr<Replacer> Read(const Component& component);

  // InvalidArgument: a regular expression ran out of its step budget.
  absl::StatusOr<std::string> Apply(std::string_view text) const;

  // The string looked for; empty when it is a regular expression.
  const std::string& literal() const { return literal_; }
  const std::string& content() const { return content_; }

 private:
  Replacer() = default;

  std::string literal_;
  std::unique_ptr<const Regex> regex_;  // null when literal_ is used
  std::string content_;
};

}  // namespace lexico::worker

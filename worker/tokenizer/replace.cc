#include "worker/tokenizer/replace.h"

#include "proto/base/limits.h"
#include "proto/base/status.h"

namespace lexico::worker {
namespace {

absl::Status TooLong(size_t bytes, size_t bytes_max) {
  return absl::InvalidArgumentError(
      fmt::format("a Replace of the tokenizer makes more than {} bytes of {}", bytes_max, bytes));
}

}  // namespace

absl::StatusOr<Replacer> Replacer::Read(const Component& component) {
  Replacer replacer;
  LEXICO_ASSIGN_OR_RETURN(replacer.content_, component.String("content"));
  LEXICO_ASSIGN_OR_RETURN(PatternSpec pattern, ReadPattern(component));
  if (!pattern.is_regex && !pattern.text.empty()) {
    replacer.literal_ = std::move(pattern.text);
    return replacer;
  }
  // An empty string matches between all characters, as an empty regular expression does.
  auto regex = Regex::Compile(pattern.text);
  if (!regex.ok()) return base::Annotate(regex.status(), component.path());
  replacer.regex_ = *std::move(regex);
  return replacer;
}

absl::StatusOr<std::string> Replacer::Apply(std::string_view text) const {
  std::string out;
  out.reserve(text.size());
  const size_t bytes_max = base::kNormalizedGrowthMax * (text.size() + base::kTokenBytesMax);
  if (regex_ != nullptr) {
    LEXICO_ASSIGN_OR_RETURN(const std::vector<Match> matches, regex_->FindAll(text));
    for (const Match& match : matches) {
      out.append(match.matched ? std::string_view(content_)
                               : text.substr(match.begin, match.end - match.begin));
      if (out.size() > bytes_max) return TooLong(text.size(), bytes_max);
    }
    return out;
  }
  size_t begin = 0;
  for (size_t at; (at = text.find(literal_, begin)) != std::string_view::npos;
       begin = at + literal_.size()) {
    out.append(text, begin, at - begin);
    out.append(content_);
    if (out.size() > bytes_max) return TooLong(text.size(), bytes_max);
  }
  out.append(text, begin);
  return out;
}

}  // namespace lexico::worker

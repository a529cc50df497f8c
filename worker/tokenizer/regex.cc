#include "worker/tokenizer/regex.h"

#include <fmt/format.h>
#include <oniguruma.h>

#include <chrono>
#include <string>

#include "proto/base/check.h"
#include "proto/base/limits.h"
#include "worker/tokenizer/unicode.h"

namespace lexico::worker {
namespace {

const OnigUChar* Bytes(const char* text) { return reinterpret_cast<const OnigUChar*>(text); }

std::string ErrorText(int code, OnigErrorInfo* info) {
  OnigUChar buffer[ONIG_MAX_ERROR_MESSAGE_LEN];
  const int length = onig_error_code_to_str(buffer, code, info);
  return std::string(reinterpret_cast<const char*>(buffer), static_cast<size_t>(length));
}

// The engine's global set-up, once: its parser's recursion is limited so that a nested pattern
// cannot overflow our stack.
void InitializeEngine() {
  static const bool initialized = [] {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    LEXICO_CHECK_EQ(onig_initialize(encodings, 1), ONIG_NORMAL);
    LEXICO_CHECK_EQ(onig_set_parse_depth_limit(base::kRegexDepthMax), ONIG_NORMAL);
    return true;
  }();
  LEXICO_CHECK(initialized);
}

struct FreeParam {
  void operator()(OnigMatchParam* param) const { onig_free_match_param(param); }
};
struct FreeRegion {
  void operator()(OnigRegion* region) const { onig_region_free(region, /*free_self=*/1); }
};

std::unique_ptr<OnigMatchParam, FreeParam> MakeParam(size_t text_bytes) {
  std::unique_ptr<OnigMatchParam, FreeParam> param(onig_new_match_param());
  LEXICO_CHECK(param != nullptr);
  onig_initialize_match_param(param.get());
  // A run of one class backtracks once per character, which is no sign of a bad pattern.
  const unsigned long retries = base::kRegexRetriesMax + 4 * text_bytes;
  onig_set_retry_limit_in_match_of_match_param(param.get(), retries);
  onig_set_retry_limit_in_search_of_match_param(param.get(), 4 * retries);
  onig_set_match_stack_limit_size_of_match_param(param.get(), base::kRegexStackMax);
  return param;
}

absl::Status OutOfBudget(std::string_view reason, size_t offset, size_t size) {
  return absl::InvalidArgumentError(
      fmt::format("the tokenizer's regular expression gave up on this text at byte {} of {}: {}",
                  offset, size, reason));
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Regex>> Regex::Compile(std::string_view pattern) {
  InitializeEngine();
  if (pattern.size() > base::kRegexBytesMax) {
    return absl::InvalidArgumentError(fmt::format("regular expression of {} bytes, at most {}",
                                                  pattern.size(), base::kRegexBytesMax));
  }
  regex_t* regex = nullptr;
  OnigErrorInfo info{};
  const OnigUChar* begin = Bytes(pattern.data());
  const int code = onig_new(&regex, begin, begin + pattern.size(), ONIG_OPTION_NONE,
                            ONIG_ENCODING_UTF8, ONIG_SYNTAX_DEFAULT, &info);
  if (code != ONIG_NORMAL) {
    return absl::InvalidArgumentError(
        fmt::format("not a regular expression: {}", ErrorText(code, &info)));
  }
  return std::unique_ptr<const Regex>(new Regex(regex));
}

std::string Regex::Escape(std::string_view literal) {
  std::string pattern;
  for (const char c : literal) {
    if (std::string_view("\\.+*?()|[]{}^$#&-~").find(c) != std::string_view::npos) {
      pattern.push_back('\\');
    }
    pattern.push_back(c);
  }
  return pattern;
}

Regex::~Regex() { onig_free(regex_); }

absl::StatusOr<std::vector<Match>> Regex::FindAll(std::string_view text) const {
  if (text.empty()) return std::vector<Match>{{0, 0, false}};
  const auto param = MakeParam(text.size());
  const std::unique_ptr<OnigRegion, FreeRegion> region(onig_region_new());
  const double seconds_max =
      base::kRegexSecondsPerMiB * (1.0 + static_cast<double>(text.size()) / (1 << 20));
  const auto start = std::chrono::steady_clock::now();

  std::vector<Match> matches;
  const OnigUChar* const begin = Bytes(text.data());
  const OnigUChar* const end = begin + text.size();
  size_t covered = 0;        // end of the last part in `matches`
  bool after_match = false;  // an empty match is not taken right behind another match
  for (size_t at = 0, n_searches = 1; at <= text.size(); ++n_searches) {
    const int found = onig_search_with_param(regex_, begin, end, begin + at, end, region.get(),
                                             ONIG_OPTION_NONE, param.get());
    if (found == ONIG_MISMATCH) break;
    if (found < 0) return OutOfBudget(ErrorText(found, nullptr), at, text.size());
    const auto match_begin = static_cast<size_t>(region->beg[0]);
    const auto match_end = static_cast<size_t>(region->end[0]);
    if (match_begin == match_end && after_match && match_end == covered) {
      at += at < text.size() ? Utf8Length(text[at]) : 1;
      continue;
    }
    if (match_begin > covered) matches.push_back({covered, match_begin, false});
    matches.push_back({match_begin, match_end, true});
    covered = at = match_end;
    after_match = true;
    if (n_searches % 64 == 0) {
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      if (taken.count() > seconds_max) {
        return OutOfBudget(fmt::format("no end after {:.1f} s", taken.count()), at, text.size());
      }
    }
  }
  if (covered < text.size()) matches.push_back({covered, text.size(), false});
  return matches;
}

}  // namespace lexico::worker

#include "coordinator/service/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "proto/base/limits.h"
#include "proto/base/status.h"

namespace lexico::coord {
namespace {

absl::Status CheckSize(std::string_view field, size_t bytes, size_t bytes_max,
                       std::string_view remedy) {
  if (bytes <= bytes_max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{} has {} bytes, at most {}{}", field, bytes, bytes_max, remedy));
}

absl::Status CheckRange(std::string_view field, double value, double min, double max) {
  if (value >= min && value <= max) return absl::OkStatus();  // NaN fails
  return absl::InvalidArgumentError(
      fmt::format("{} is {}, must be within {} and {}", field, value, min, max));
}

absl::Status CheckSampling(const v1::SamplingParams& sampling) {
  LEXICO_RETURN_IF_ERROR(CheckRange("sampling.temperature", sampling.temperature(), 0, 100));
  LEXICO_RETURN_IF_ERROR(CheckRange("sampling.top_k", sampling.top_k(), 0, base::kVocabMax));
  LEXICO_RETURN_IF_ERROR(CheckRange("sampling.top_p", sampling.top_p(), 0, 1));
  LEXICO_RETURN_IF_ERROR(CheckRange("sampling.min_p", sampling.min_p(), 0, 1));
  LEXICO_RETURN_IF_ERROR(
      CheckRange("sampling.repetition_penalty", sampling.repetition_penalty(), 0, 100));
  return CheckRange("sampling.n_logprobs", sampling.n_logprobs(), 0, base::kLogprobsMax);
}

}  // namespace

absl::Status CheckName(std::string_view field, std::string_view name) {
  constexpr size_t kBytesMax = 128;
  if (name.empty()) return absl::InvalidArgumentError(fmt::format("{} is empty", field));
  LEXICO_RETURN_IF_ERROR(CheckSize(field, name.size(), kBytesMax, ""));
  const auto is_allowed = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  };
  const auto bad = std::find_if_not(name.begin(), name.end(), is_allowed);
  if (bad == name.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{} has the byte 0x{:02x} at {}; allowed are letters, digits and ._-", field,
                  static_cast<unsigned char>(*bad), bad - name.begin()));
}

absl::Status CheckCreateSession(const v1::CreateSessionRequest& request) {
  if (!request.session_id().empty()) {
    LEXICO_RETURN_IF_ERROR(CheckName("session_id", request.session_id()));
  }
  LEXICO_RETURN_IF_ERROR(CheckSize("model", request.model().size(), base::kNameBytesMax, ""));
  LEXICO_RETURN_IF_ERROR(CheckSize("profile", request.profile().size(), base::kNameBytesMax, ""));
  LEXICO_RETURN_IF_ERROR(
      CheckSize("min_profile", request.min_profile().size(), base::kNameBytesMax, ""));
  LEXICO_RETURN_IF_ERROR(CheckSize("system_prompt", request.system_prompt().size(),
                                   base::kPromptBytesMax, "; append longer text with AppendText"));
  if (!v1::TextFormat_IsValid(request.format())) {
    return absl::InvalidArgumentError(
        fmt::format("format {} is none of TextFormat", static_cast<int>(request.format())));
  }
  if (request.format() == v1::TEXT_FORMAT_RAW && !request.system_prompt().empty()) {
    return absl::InvalidArgumentError(
        "a system_prompt needs format CHAT; with RAW, append the text instead");
  }
  return absl::OkStatus();
}

absl::Status CheckGenerate(const v1::GenerateRequest& request) {
  LEXICO_RETURN_IF_ERROR(CheckName("session_id", request.session_id()));
  LEXICO_RETURN_IF_ERROR(CheckSize("prompt", request.prompt().size(), base::kPromptBytesMax,
                                   "; append longer text with AppendText"));
  LEXICO_RETURN_IF_ERROR(
      CheckRange("max_new_tokens", request.max_new_tokens(), 0, base::kNewTokensMax));
  if (request.stop_size() > base::kStopStringsMax) {
    return absl::InvalidArgumentError(
        fmt::format("stop has {} strings, at most {}", request.stop_size(), base::kStopStringsMax));
  }
  for (const std::string& stop : request.stop()) {
    if (stop.empty()) return absl::InvalidArgumentError("a stop string is empty");
    LEXICO_RETURN_IF_ERROR(CheckSize("a stop string", stop.size(), base::kStopStringBytesMax, ""));
  }
  return CheckSampling(request.sampling());
}

}  // namespace lexico::coord

#include "worker/model/json_file.h"

#include <fmt/format.h>

#include <set>
#include <vector>

#include "absl/status/status.h"
#include "proto/base/limits.h"

namespace lexico::worker {
namespace {

using Json = nlohmann::json;

// Watches a parse for what nlohmann::json lets pass: depth and repeated keys.
class StrictWatch {
 public:
  bool operator()(int depth, Json::parse_event_t event, const Json& parsed) {
    if (!problem_.empty()) return false;
    switch (event) {
      case Json::parse_event_t::object_start:
      case Json::parse_event_t::array_start:
        if (depth >= base::kJsonDepthMax) {
          problem_ = fmt::format("nested deeper than {} levels", base::kJsonDepthMax);
          return false;
        }
        if (event == Json::parse_event_t::object_start) keys_.emplace_back();
        break;
      case Json::parse_event_t::object_end:
        keys_.pop_back();
        break;
      case Json::parse_event_t::key:
        if (!keys_.back().insert(parsed.get_ref<const std::string&>()).second) {
          problem_ = fmt::format("key {} appears twice in one object", JsonForMessage(parsed));
        }
        break;
      default:
        break;
    }
    return problem_.empty();
  }
  const std::string& problem() const { return problem_; }

 private:
  std::vector<std::set<std::string>> keys_;
  std::string problem_;
};

}  // namespace

absl::StatusOr<Json> ParseJsonObject(std::string_view name, std::string_view text) {
  StrictWatch watch;
  Json value;
  try {
    value = Json::parse(text.begin(), text.end(), std::ref(watch));
  } catch (const Json::exception& error) {
    // A text that breaks our rules usually breaks the grammar later as well; ours say more.
    if (watch.problem().empty()) {
      return absl::DataLossError(fmt::format("{}: not JSON: {}", name, error.what()));
    }
  }
  if (!watch.problem().empty()) {
    return absl::InvalidArgumentError(fmt::format("{}: {}", name, watch.problem()));
  }
  if (!value.is_object()) {
    return absl::InvalidArgumentError(
        fmt::format("{}: is {}, must be a JSON object", name, value.type_name()));
  }
  return value;
}

std::string JsonForMessage(const Json& value) {
  constexpr size_t kBytesMax = 60;
  // `replace`: a string of the file may not be UTF-8, and dump() must not throw.
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kBytesMax) text = text.substr(0, kBytesMax) + "...";
  return text;
}

}  // namespace lexico::worker

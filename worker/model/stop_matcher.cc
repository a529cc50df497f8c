#include "worker/model/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace lexico::worker {

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
}

std::string StopMatcher::Feed(std::string_view piece) {
  if (matched()) return "";
  pending_ += piece;
  size_t first = std::string::npos;
  size_t first_end = std::string::npos;
  for (size_t i = 0; i < stops_.size(); ++i) {
    const size_t place = pending_.find(stops_[i]);
    if (place == std::string::npos) continue;
    const size_t end = place + stops_[i].size();
    if (end < first_end || (end == first_end && place < first)) {
      first = place;
      first_end = end;
      matched_ = static_cast<int>(i);
    }
  }
  if (matched()) {
    std::string shown = pending_.substr(0, first);
    pending_.clear();
    return shown;
  }
  // Hold back the longest end that begins a stop string.
  size_t held = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, pending_.size()); n > held; --n) {
      if (pending_.ends_with(std::string_view(stop).substr(0, n))) held = n;
    }
  }
  std::string shown = pending_.substr(0, pending_.size() - held);
  pending_.erase(0, shown.size());
  return shown;
}

std::string StopMatcher::Flush() { return std::exchange(pending_, std::string()); }

}  // namespace lexico::worker

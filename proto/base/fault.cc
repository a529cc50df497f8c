#include "proto/base/fault.h"

namespace lexico::base {

void FaultInjector::Set(std::string_view point, absl::Status status, int count, int skip) {
  absl::MutexLock lock(&mutex_);
  rules_[std::string(point)] = {std::move(status), count, skip};
  armed_.store(true, std::memory_order_relaxed);
}

void FaultInjector::Clear() {
  absl::MutexLock lock(&mutex_);
  rules_.clear();
  armed_.store(false, std::memory_order_relaxed);
}

absl::Status FaultInjector::Hit(std::string_view point) {
  if (!armed_.load(std::memory_order_relaxed)) return absl::OkStatus();
  absl::MutexLock lock(&mutex_);
  const auto it = rules_.find(point);
  if (it == rules_.end()) return absl::OkStatus();
  Rule& rule = it->second;
  if (rule.skip > 0) {
    --rule.skip;
    return absl::OkStatus();
  }
  if (rule.count == 0) return absl::OkStatus();
  if (rule.count > 0) --rule.count;
  return rule.status;
}

}  // namespace lexico::base

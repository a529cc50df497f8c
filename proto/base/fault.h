// Named points where a test may make the real code fail: a torn write, a refused connection, a
// delay. Shipped in every build; a process without rules pays one relaxed load per point.
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include <atomic>
#include <map>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace lexico::base {

class FaultInjector {
 public:
  // Fails `point` with `status` for the next `count` hits after skipping `skip` of them; a negative
  // count means always.
  void Set(std::string_view point, absl::Status status, int count = -1, int skip = 0);
  void Clear();

  // OK, or the status of the rule set for this point. The caller treats it as the real failure.
  absl::Status Hit(std::string_view point);

 private:
  struct Rule {
    absl::Status status;
    int count;
    int skip;
  };
  std::atomic<bool> armed_{false};
  absl::Mutex mutex_;
  std::map<std::string, Rule, std::less<>> rules_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lexico::base

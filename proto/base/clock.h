// Time as an argument. Pure code (scheduler, router, admission, registry) takes absl::Time values;
// everything that must read a clock takes a Clock, so that tests and the simulator move time by
// hand.
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace lexico::base {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;
  // Blocks for `duration`; a fake clock returns once its time was advanced that far.
  virtual void Sleep(absl::Duration duration) = 0;

  // The system's clock. Never deleted.
  static Clock* Real();
};

// Moves only when told to.
class FakeClock : public Clock {
 public:
  explicit FakeClock(absl::Time start = absl::UnixEpoch() + absl::Hours(24)) : now_(start) {}
  absl::Time Now() const override {
    absl::MutexLock lock(&mutex_);
    return now_;
  }
  void Sleep(absl::Duration duration) override;
  void Advance(absl::Duration duration) {
    absl::MutexLock lock(&mutex_);
    now_ += duration;
  }

 private:
  mutable absl::Mutex mutex_;
  absl::Time now_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lexico::base

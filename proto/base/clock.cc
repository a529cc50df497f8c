#include "proto/base/clock.h"

namespace lexico::base {
namespace {

class RealClock : public Clock {
 public:
  absl::Time Now() const override { return absl::Now(); }
  void Sleep(absl::Duration duration) override { absl::SleepFor(duration); }
};

}  // namespace

Clock* Clock::Real() {
  static RealClock* const clock = new RealClock;
  return clock;
}

void FakeClock::Sleep(absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  const absl::Time wake = now_ + duration;
  auto reached = [this, wake]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return now_ >= wake; };
  mutex_.Await(absl::Condition(&reached));
}

}  // namespace lexico::base

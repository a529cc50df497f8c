// Runs a function again and again on a thread of its own.
#pragma once

#include <functional>
#include <thread>
#include <utility>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

namespace lexico::coord {

class Periodic {
 public:
  // First after one `period`; between two runs one `period` passes.
  Periodic(absl::Duration period, std::function<void()> run)
      : thread_([this, period, run = std::move(run)] {
          while (!stop_.WaitForNotificationWithTimeout(period)) run();
        }) {}
  // Waits for a run to end.
  ~Periodic() {
    Stop();
    thread_.join();
  }
  // No further run begins. From one thread.
  void Stop() {
    if (!stop_.HasBeenNotified()) stop_.Notify();
  }

 private:
  absl::Notification stop_;
  std::thread thread_;
};

}  // namespace lexico::coord

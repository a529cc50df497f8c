// A moment in the order of a stream's ops: what another stream of the same device waits for, and
// where time is taken. On a CPU, where ops have finished when they return, it is nothing.
//
// Thread-compatible. May be recorded again and again; who was told to wait before waits for what
// was recorded then.
#pragma once

#include <memory>
#include <utility>

#include "absl/time/time.h"
#include "kernels/api/device.h"
#include "kernels/api/stream.h"

namespace lexico::kernels {

class Event {
 public:
  // Of the stream's device.
  explicit Event(const Stream& stream)
      : event_(stream.device() == nullptr ? nullptr : stream.device()->NewEvent()) {}

  // The moment when the ops enqueued on `stream` so far have finished. REQUIRES of all streams
  // here: they are of the event's device.
  void Record(const Stream& stream) {
    if (event_ != nullptr) event_->Record(*stream.device());
  }
  // Ops enqueued on `stream` from here on begin after the moment; at once where none was recorded.
  void HoldBack(const Stream& stream) const {
    if (event_ != nullptr) event_->HoldBack(*stream.device());
  }
  // On a device, from one moment to another; both have come. Zero on a CPU.
  absl::Duration Since(const Event& earlier) const {
    if (event_ == nullptr) return absl::ZeroDuration();
    return absl::Microseconds(event_->MicrosecondsSince(*earlier.event_));
  }

 private:
  std::unique_ptr<DeviceEvent> event_;
};

}  // namespace lexico::kernels

// Hands what an engine call produces from the engine's thread to the thread of its RPC.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "lexico/v1/inference.pb.h"
#include "worker/engine/engine.h"

namespace lexico::worker {

// Thread safety: all methods may be called from any thread. Shared by callbacks and the RPC.
class CallEvents {
 public:
  void Push(v1::GenerateEvent event) {
    absl::MutexLock lock(&mutex_);
    events_.push_back(std::move(event));
    changed_.Signal();
  }
  void Finish(absl::StatusOr<CallResult> result) {
    absl::MutexLock lock(&mutex_);
    result_ = std::move(result);
    changed_.Signal();
  }

  // Passes events to `send` until the call has finished. `stop` is asked every few milliseconds
  // and `cancel` called once when it says true or `send` says false; the end is still waited for.
  absl::StatusOr<CallResult> Drain(const std::function<bool(const v1::GenerateEvent&)>& send,
                                   const std::function<bool()>& stop,
                                   const std::function<void()>& cancel);

 private:
  absl::Mutex mutex_;
  absl::CondVar changed_;
  std::deque<v1::GenerateEvent> events_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::StatusOr<CallResult>> result_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lexico::worker

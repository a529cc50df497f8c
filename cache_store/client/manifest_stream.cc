#include "cache_store/client/manifest_stream.h"

#include <fmt/format.h>

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "proto/base/limits.h"

namespace lexico::store {
namespace {

// What the callbacks of a stream and the thread that waits for it share. The thread does not wait
// for the callbacks of a stream that it gave up: gRPC holds a message until its connection has
// taken or lost it, which with a store that hangs takes as long as its keepalive.
class Stream {
 public:
  virtual ~Stream() = default;

  grpc::Status Wait(absl::Duration stall_timeout) {
    {
      absl::MutexLock lock(&mutex_);
      while (!is_done_ && absl::Now() < last_step_ + stall_timeout) {
        changed_.WaitWithDeadline(&mutex_, last_step_ + stall_timeout);
      }
      if (is_done_) return status_;
      is_given_up_ = true;
    }
    context_.TryCancel();
    return grpc::Status(
        grpc::StatusCode::DEADLINE_EXCEEDED,
        fmt::format("no answer and no progress for {}", absl::FormatDuration(stall_timeout)));
  }

 protected:
  explicit Stream(absl::Time deadline) { context_.set_deadline(absl::ToChronoTime(deadline)); }
  // Of the last callback.
  void Done(const grpc::Status& status) {
    absl::MutexLock lock(&mutex_);
    status_ = status;
    is_done_ = true;
    changed_.Signal();
  }

  grpc::ClientContext context_;
  // No call into gRPC while it is held: callbacks may run inside.
  absl::Mutex mutex_;
  bool is_given_up_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time last_step_ ABSL_GUARDED_BY(mutex_) = absl::Now();

 private:
  absl::CondVar changed_;
  bool is_done_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mutex_);
};

class Sender final : public Stream, public grpc::ClientWriteReactor<v1::PutManifestRequest> {
 public:
  Sender(std::string_view session_id, uint64_t epoch, std::string_view manifest,
         absl::Time deadline)
      : Stream(deadline), rest_(manifest) {
    message_.set_session_id(std::string(session_id));
    message_.set_epoch(epoch);
  }
  // `self` is this, kept until the last callback.
  void Start(v1::CacheStore::Stub& stub, std::shared_ptr<Sender> self) {
    self_ = std::move(self);
    stub.async()->PutManifest(&context_, &response_, this);
    WriteChunk();
    StartCall();
  }

 private:
  void WriteChunk() {
    bool is_last = false;
    {
      absl::MutexLock lock(&mutex_);
      if (is_given_up_) return;  // and `rest_` is gone
      const std::string_view chunk = rest_.substr(0, base::kManifestChunkBytesMax);
      rest_.remove_prefix(chunk.size());
      message_.set_manifest(std::string(chunk));
      is_last = rest_.empty();
      last_step_ = absl::Now();
    }
    is_last_ = is_last;
    if (is_last) {
      StartWriteLast(&message_, grpc::WriteOptions());
    } else {
      StartWrite(&message_);
    }
  }
  void OnWriteDone(bool ok) override {
    if (!ok || is_last_) return;  // OnDone says why
    message_.Clear();
    WriteChunk();
  }
  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<Sender> self = std::move(self_);
    Done(status);
  }

  std::shared_ptr<Sender> self_;
  std::string_view rest_ ABSL_GUARDED_BY(mutex_);
  bool is_last_ = false;  // of the callbacks
  v1::PutManifestRequest message_;
  v1::PutManifestResponse response_;
};

class Receiver final : public Stream, public grpc::ClientReadReactor<v1::GetManifestResponse> {
 public:
  Receiver(std::string_view session_id, absl::Time deadline) : Stream(deadline) {
    request_.set_session_id(std::string(session_id));
  }
  void Start(v1::CacheStore::Stub& stub, std::shared_ptr<Receiver> self) {
    self_ = std::move(self);
    stub.async()->GetManifest(&context_, &request_, this);
    StartRead(&chunk_);
    StartCall();
  }
  // After Wait was OK.
  StoredManifest TakeManifest() { return std::move(manifest_); }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return;  // the end, or OnDone says why
    is_too_long_ = chunk_.manifest().size() > base::kManifestBytesMax - manifest_.bytes.size();
    if (is_too_long_) {
      context_.TryCancel();
      return;
    }
    manifest_.bytes += chunk_.manifest();
    manifest_.epoch = chunk_.epoch();
    {
      absl::MutexLock lock(&mutex_);
      last_step_ = absl::Now();
    }
    StartRead(&chunk_);
  }
  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<Receiver> self = std::move(self_);
    if (!is_too_long_) {
      Done(status);
      return;
    }
    Done(grpc::Status(
        grpc::StatusCode::INTERNAL,
        fmt::format("it sends a manifest of more than {} bytes", base::kManifestBytesMax)));
  }

  std::shared_ptr<Receiver> self_;
  bool is_too_long_ = false;  // of the callbacks
  StoredManifest manifest_;   // likewise, until done
  v1::GetManifestRequest request_;
  v1::GetManifestResponse chunk_;
};

}  // namespace

grpc::Status SendManifest(v1::CacheStore::Stub& stub, std::string_view session_id, uint64_t epoch,
                          std::string_view manifest, const StreamLimits& limits) {
  const auto sender = std::make_shared<Sender>(session_id, epoch, manifest, limits.deadline);
  sender->Start(stub, sender);
  return sender->Wait(limits.stall_timeout);
}

grpc::Status ReceiveManifest(v1::CacheStore::Stub& stub, std::string_view session_id,
                             const StreamLimits& limits, StoredManifest* out) {
  const auto receiver = std::make_shared<Receiver>(session_id, limits.deadline);
  receiver->Start(stub, receiver);
  const grpc::Status status = receiver->Wait(limits.stall_timeout);
  if (status.ok()) *out = receiver->TakeManifest();
  return status;
}

}  // namespace lexico::store

// A worker without a model: WorkerService over real gRPC, with sessions that are lists of ids and a
// "model" that is a hash of them. Deterministic: the same context gives the same answer on every
// fake, so a session that moved is told from one that was damaged on the way.
//
// Keeps the contract of proto/lexico/v1/worker.proto: epochs, leases, what is in the store at the
// end of a call and what is only in memory during one. It can be killed as by kill -9, slowed down
// and made to fail.
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "lexico/v1/worker.grpc.pb.h"
#include "proto/rpc/server.h"
#include "tests/support/tcp_relay.h"

namespace lexico::tests {

struct FakeSession {
  uint64_t epoch = 0;
  std::string tenant;
  absl::Time create_time;
  std::string profile;
  v1::TextFormat format = v1::TEXT_FORMAT_RAW;
  std::vector<int32_t> ids;
  std::string min_profile = {};
};

// What a cache store would hold, shared by the fakes of a cluster.
class FakeStore {
 public:
  // Everything is Unavailable "store_unavailable" until it is up again.
  void set_down(bool is_down) { is_down_ = is_down; }

  // Aborted "epoch_stale" when the stored session was born later, or is the same one with a larger
  // epoch; NotFound "session_deleted" when it was deleted.
  absl::Status Put(const std::string& session_id, const FakeSession& session);
  absl::StatusOr<FakeSession> Get(const std::string& session_id);
  absl::Status Delete(const std::string& session_id, uint64_t epoch);
  bool Has(const std::string& session_id);

 private:
  std::atomic<bool> is_down_{false};
  absl::Mutex mutex_;
  std::map<std::string, FakeSession> sessions_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, absl::Time> deleted_births_ ABSL_GUARDED_BY(mutex_);
};

// The id that follows a context.
int32_t FakeNextId(const std::vector<int32_t>& context);
std::string FakeText(int32_t id);

struct FakeWorkerOptions {
  std::string worker_id = "w1";
  std::string coordinator;  // host:port
  std::string model = "fake";
  std::string fingerprint = "f00d";
  int64_t n_pages = 64;
  int64_t n_pages_free = 64;
  // Registers and beats by itself; otherwise Register() and Beat() are the test's business.
  bool beats = true;
};

class FakeWorker final : public v1::WorkerService::Service {
 public:
  FakeWorker(const FakeWorkerOptions& options, FakeStore& store);
  ~FakeWorker() override;

  // Connections break, heartbeats stop, nothing is said: kill -9. Its sessions are only in the
  // store now.
  void Kill();

  grpc::Status Register();
  grpc::Status Beat();
  grpc::Status Deregister();

  // What the next calls do.
  void set_token_delay(absl::Duration delay) { token_delay_us_ = absl::ToInt64Microseconds(delay); }
  void set_append_delay(absl::Duration delay) {
    append_delay_us_ = absl::ToInt64Microseconds(delay);
  }
  // The next answer of Describe is on its way for this long.
  void set_describe_delay(absl::Duration delay) {
    describe_delay_us_ = absl::ToInt64Microseconds(delay);
  }
  // A cancelled call stays busy for this long: the rest of its step.
  void set_cancel_lag(absl::Duration lag) { cancel_lag_us_ = absl::ToInt64Microseconds(lag); }
  void set_n_pages_free(int64_t n_pages) { n_pages_free_ = n_pages; }
  void FailRestore(absl::Status status);
  void FailOffload(absl::Status status);
  void FailRun(absl::Status status);
  // How Run ends after Finished was sent.
  void FailAfterFinished(absl::Status status);

  // What a worker does behind: puts what it holds of the session into the store.
  absl::Status Sync(const std::string& session_id);

  bool Holds(const std::string& session_id);
  uint64_t EpochOf(const std::string& session_id);
  int n_runs() const { return n_runs_; }
  int n_describes() const { return n_describes_; }
  int n_runs_cancelled() const { return n_runs_cancelled_; }
  int n_appends_cancelled() const { return n_appends_cancelled_; }
  // Tokens sent by all runs: tells from outside that a stream is under way.
  int n_tokens_sent() const { return n_tokens_sent_; }
  // RunRequest.call_id of every run, oldest first.
  std::vector<std::string> call_ids() {
    absl::MutexLock lock(&mutex_);
    return call_ids_;
  }
  size_t append_bytes() const { return append_bytes_; }

  grpc::Status OpenSession(grpc::ServerContext* context, const v1::OpenSessionRequest* request,
                           v1::Session* response) override;
  grpc::Status Append(grpc::ServerContext* context,
                      grpc::ServerReader<v1::WorkerAppendRequest>* reader,
                      v1::AppendTextResponse* response) override;
  grpc::Status Run(grpc::ServerContext* context, const v1::RunRequest* request,
                   grpc::ServerWriter<v1::GenerateEvent>* writer) override;
  grpc::Status Fork(grpc::ServerContext* context, const v1::WorkerForkRequest* request,
                    v1::Session* response) override;
  grpc::Status Describe(grpc::ServerContext* context, const v1::SessionAtEpoch* request,
                        v1::Session* response) override;
  grpc::Status Demote(grpc::ServerContext* context, const v1::DemoteRequest* request,
                      v1::Session* response) override;
  grpc::Status Offload(grpc::ServerContext* context, const v1::SessionAtEpoch* request,
                       v1::Session* response) override;
  grpc::Status Restore(grpc::ServerContext* context, const v1::RestoreRequest* request,
                       v1::Session* response) override;
  grpc::Status Release(grpc::ServerContext* context, const v1::ReleaseRequest* request,
                       v1::ReleaseResponse* response) override;
  grpc::Status GetModel(grpc::ServerContext* context, const v1::GetModelRequest* request,
                        v1::ModelInfo* response) override;
  grpc::Status TokenizeText(grpc::ServerContext* context, const v1::TokenizeRequest* request,
                            v1::TokenizeResponse* response) override;
  grpc::Status DetokenizeIds(grpc::ServerContext* context, const v1::DetokenizeRequest* request,
                             v1::DetokenizeResponse* response) override;

 private:
  // Takes a session for one call, until the destructor.
  class Use {
   public:
    Use(FakeWorker* worker, std::string session_id)
        : worker_(worker), session_id_(std::move(session_id)) {}
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    ~Use();
    FakeSession session;

   private:
    FakeWorker* const worker_;
    const std::string session_id_;
  };

  // The session at that epoch; NotFound or Aborted as the contract says.
  absl::StatusOr<FakeSession> Find(const v1::SessionAtEpoch& at);
  // The same for a call: FailedPrecondition "session_busy" while another one runs.
  absl::StatusOr<std::unique_ptr<Use>> Take(const v1::SessionAtEpoch& at);
  void Keep(const std::string& session_id, const FakeSession& session);
  absl::Status InjectedFailure(const std::string& method);
  v1::ModelInfo Model() const;
  v1::WorkerLoad Load() const;
  void BeatUntilStopped();

  const FakeWorkerOptions options_;
  FakeStore& store_;
  std::unique_ptr<v1::WorkerRegistry::Stub> registry_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<TcpRelay> relay_;
  std::thread beater_;
  std::atomic<bool> is_stopped_{false};

  std::atomic<int64_t> token_delay_us_{0};
  std::atomic<int64_t> append_delay_us_{0};
  std::atomic<int64_t> describe_delay_us_{0};
  std::atomic<int64_t> cancel_lag_us_{0};
  std::atomic<int64_t> n_pages_free_{0};
  std::atomic<int> n_runs_{0};
  std::atomic<int> n_describes_{0};
  std::atomic<int> n_runs_cancelled_{0};
  std::atomic<int> n_appends_cancelled_{0};
  std::atomic<int> n_tokens_sent_{0};
  std::atomic<size_t> append_bytes_{0};

  absl::Mutex mutex_;
  std::map<std::string, FakeSession> sessions_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> busy_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, absl::Status> failures_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> call_ids_ ABSL_GUARDED_BY(mutex_);
  std::string lease_id_ ABSL_GUARDED_BY(mutex_);
  int64_t lease_ms_ ABSL_GUARDED_BY(mutex_) = 300;
};

}  // namespace lexico::tests

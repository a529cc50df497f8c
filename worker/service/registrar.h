// Keeps this worker registered at the coordinator: a lease, heartbeats with what it holds, and the
// sessions that the coordinator takes away.
//
// A coordinator that cannot be reached is tried again for ever; the worker goes on serving what it
// has. Thread-compatible.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "lexico/v1/worker.grpc.pb.h"

namespace lexico::worker {

struct RegistrarOptions {
  std::string worker_id;
  std::string address;      // where the coordinator reaches us
  std::string coordinator;  // its address, for messages
  v1::ModelInfo model;
};

class Registrar {
 public:
  using Load = std::function<v1::WorkerLoad()>;
  using Sessions = std::function<std::vector<v1::SessionAtEpoch>()>;
  // Sessions that have another owner: drop them at this epoch or a smaller one.
  using Revoke = std::function<void(const v1::SessionAtEpoch&)>;

  // Starts the thread. The callbacks run on it.
  Registrar(RegistrarOptions options, std::unique_ptr<v1::WorkerRegistry::StubInterface> stub,
            Load load, Sessions sessions, Revoke revoke);
  ~Registrar();  // Stop(false)

  // True once registered for the first time, or false at the time-out.
  bool WaitUntilRegistered(absl::Duration timeout);

  // Ends the thread. With `deregister` the coordinator hears first what we still hold, then that we
  // leave. Idempotent.
  void Stop(bool deregister);

 private:
  void Run();
  absl::Status Register();
  absl::Status Beat();
  void Deregister();
  void RevokeAll(const google::protobuf::RepeatedPtrField<v1::SessionAtEpoch>& revoked);

  const RegistrarOptions options_;
  const std::unique_ptr<v1::WorkerRegistry::StubInterface> stub_;
  const Load load_;
  const Sessions sessions_;
  const Revoke revoke_;

  absl::Notification stop_;
  absl::Notification registered_;
  std::string lease_id_;      // the thread's; empty: not registered
  absl::Duration lease_;      // the thread's
  bool is_reachable_ = true;  // the thread's, for messages
  std::thread thread_;
};

}  // namespace lexico::worker

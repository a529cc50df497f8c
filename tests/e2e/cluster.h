// The real programs on loopback, started one by one so that a test can kill any of them, and a
// client for the coordinator.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "lexico/v1/admin.grpc.pb.h"
#include "lexico/v1/inference.grpc.pb.h"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"

namespace lexico::tests {

// Paths of what the build made.
std::string Program(const std::string& name);
std::string ModelDir();

struct ClusterOptions {
  int n_workers = 2;
  std::vector<std::string> store_flags;
  std::vector<std::string> coordinator_flags;
  std::vector<std::string> worker_flags;
};

struct Answer {
  std::string text;
  std::vector<int32_t> ids;
  std::vector<v1::GenerateEvent> events;
  v1::GenerateEvent::Finished finished;
};

// Thread safety: the servers' methods on one thread; the calls on any.
class Cluster {
 public:
  // Starts all and waits until the workers are registered; a failure is a test failure, and
  // calls then fail as well.
  explicit Cluster(const ClusterOptions& options = {});
  ~Cluster();  // prints the logs when the test has failed

  // -- Servers. "store", "coordinator", "worker-1", ... A restart uses the same addresses and
  // folders. -------------------------------------------------------------------------------------
  void Kill(const std::string& name);  // SIGKILL, and waits until it is gone
  void Start(const std::string& name);
  Process& process(const std::string& name) { return *servers_.at(name).process; }
  std::string address(const std::string& name) const {
    return servers_.at(name).addresses.at("grpc");
  }
  std::string metrics_address(const std::string& name) const;
  void WaitForWorkers(int n_ready);

  // -- Calls, each as one function ---------------------------------------------------------------
  v1::Inference::Stub& stub() { return *inference_; }
  v1::Admin::Stub& admin() { return *admin_; }
  absl::StatusOr<v1::Session> Create(v1::CreateSessionRequest request = {});
  absl::StatusOr<v1::AppendTextResponse> Append(const std::string& id, const std::string& text);
  // `on_event` may cancel by returning false. The answer holds what came before an error, too.
  absl::Status Ask(const v1::GenerateRequest& request, Answer* answer,
                   const std::function<bool(const v1::GenerateEvent&)>& on_event = nullptr);
  absl::StatusOr<Answer> Ask(const std::string& id, const std::string& question);
  absl::StatusOr<v1::Session> Get(const std::string& id);
  absl::StatusOr<v1::Session> Offload(const std::string& id);
  absl::StatusOr<v1::Session> Restore(const std::string& id, const std::string& worker = "");
  absl::StatusOr<v1::Session> Migrate(const std::string& id, const std::string& worker = "");
  absl::StatusOr<v1::Session> Fork(const std::string& id, const std::string& new_id);
  absl::Status Delete(const std::string& id);
  absl::StatusOr<std::vector<v1::Worker>> Workers();

  // GET /metrics of a server: the value of a line that begins so, -1 when there is none.
  double Metric(const std::string& server, const std::string& beginning);
  // Waits until `condition` holds, asking every 20 ms. False at the time-out.
  static bool Eventually(const std::function<bool()>& condition, double timeout_s = 10);

 private:
  struct Server {
    std::string program;
    std::vector<std::string> flags;
    std::map<std::string, std::string> address_flags;  // flag -> key of the ready line
    std::map<std::string, std::string> addresses;      // key -> host:port, once told
    std::unique_ptr<Process> process;
    std::string old_logs;
  };

  void StartAll(const ClusterOptions& options);

  TempDir dir_;
  std::map<std::string, Server> servers_;
  std::unique_ptr<v1::Inference::Stub> inference_;
  std::unique_ptr<v1::Admin::Stub> admin_;
};

// A document of about `n_bytes` with `n_facts` facts hidden in it (tools/eval/document.h).
struct TestDocument {
  std::string text;
  std::vector<std::string> questions;
  std::vector<std::string> answers;
};
TestDocument MakeTestDocument(int n_bytes, int n_facts, int seed);

// A greedy request that does not end by itself before max_new_tokens.
v1::GenerateRequest LongRequest(const std::string& id, int max_new_tokens);

}  // namespace lexico::tests

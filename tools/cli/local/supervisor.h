// Starts servers, waits until they are ready, starts those again that die, and stops all in order.
//
// One thread, one loop over the children's outputs and our signals. A server tells that it serves
// by a line "ready key=value ..." on its output; values are addresses, which a restart reuses, so
// that the others find it again.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "tools/cli/local/child.h"

namespace lexico::cli {

// A server that is kept running.
struct ServerSpec {
  std::string name;                // "worker-1"
  std::string program;             // path
  std::vector<std::string> flags;  // "--model=..."
  // Address flags: the flag, the key of the ready line that tells its value, and the first value
  // ("127.0.0.1:0"). From the first ready line on the told value is used; a told port without a
  // host belongs to the host of the first value.
  struct Address {
    std::string flag;
    std::string key;
    std::string value;
  };
  std::vector<Address> addresses;
  std::string log_path;
  int stop_rank = 0;  // lower ranks are stopped first; equal ranks together
};

struct SupervisorOptions {
  bool restart = true;
  bool verbose = false;  // servers' lines also on stderr, with their name in front
  absl::Duration ready_timeout = absl::Minutes(5);  // a large model takes a while to load
  absl::Duration stop_timeout = absl::Seconds(40);  // of one rank; then SIGKILL
  absl::Duration backoff_min = absl::Milliseconds(200);
  absl::Duration backoff_max = absl::Seconds(10);
  absl::Duration stable = absl::Seconds(60);  // alive this long: the next back-off is the shortest
};

// Thread-compatible; one at a time in a process (it takes SIGCHLD, SIGTERM, SIGINT and SIGHUP).
class Supervisor {
 public:
  explicit Supervisor(const SupervisorOptions& options);
  ~Supervisor();  // kills what still runs

  // Starts servers and waits for their ready lines. Errors: one cannot be started, ends before it
  // is ready (the message has its exit code; its last lines go to stderr), or takes too long.
  // Cancelled: a shutdown signal came.
  absl::Status Start(std::vector<ServerSpec> servers);

  // What a server told in its ready line; "" for an unknown key.
  std::string Told(const std::string& server, const std::string& key) const;
  pid_t Pid(const std::string& server) const;

  // Until a shutdown signal (OK). Servers that end are reported and started again, or, without
  // restart, end the run with Aborted.
  absl::Status Run();

  // SIGTERM rank by rank, and SIGKILL after the time-out or at a second signal.
  void Stop();

 private:
  struct Server {
    ServerSpec spec;
    std::unique_ptr<Child> child;
    std::map<std::string, std::string> told;
    bool ready = false;
    absl::Time started;
    absl::Time restart_at = absl::InfiniteFuture();
    absl::Duration backoff;
  };

  absl::Status Launch(Server& server);
  // Waits up to `deadline` for one event and handles outputs. True when a shutdown signal came.
  bool WaitForEvents(absl::Time deadline);
  void TakeOutput(Server& server);
  // Reports a server that has ended.
  void ReportEnd(const Server& server) const;
  void StopRank(int rank);
  const Server* Find(const std::string& name) const;

  SupervisorOptions options_;
  std::vector<std::unique_ptr<Server>> servers_;
  int signal_fd_ = -1;
};

}  // namespace lexico::cli

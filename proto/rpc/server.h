// A gRPC server as every Lexico process runs it: health and reflection services, message and
// keepalive limits, optional TLS, and a shutdown that stops taking calls before it ends them.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace lexico::rpc {

// PEM files of one side. All empty: no TLS. certificate and key: TLS. With ca as well: the peer
// must show a certificate signed by it (mutual TLS).
struct TlsOptions {
  std::string certificate_file;
  std::string key_file;
  std::string ca_file;
};

class Server {
 public:
  // Starts serving `services` (not owned, must outlive the server) on `address` ("127.0.0.1:50051";
  // port 0 picks one). Unavailable with the address when the port is taken. Health of "" and of
  // every service name is NOT_SERVING until SetServing(true).
  //
  // Every running call takes a thread. `threads_max` bounds them (0: no bound): a call for which
  // there is none is RESOURCE_EXHAUSTED at once, without an ErrorDetail. Health checks are served
  // by callbacks and need none.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const std::string& address,
                                                       const std::vector<grpc::Service*>& services,
                                                       const TlsOptions& tls = {},
                                                       int threads_max = 0);
  ~Server();

  int port() const { return port_; }
  void SetServing(bool serving);

  // Health turns NOT_SERVING, no new call is taken, running ones have `grace` to end and are
  // cancelled then. Blocks.
  void Shutdown(absl::Duration grace);

 private:
  Server() = default;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

// Blocks SIGINT and SIGTERM for this thread and all it starts (call first in main), and waits for
// one of them.
void BlockShutdownSignals();
int WaitForShutdownSignal();

}  // namespace lexico::rpc

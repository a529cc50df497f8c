// The client side of the coordinator's services, for the subcommands.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lexico/v1/admin.grpc.pb.h"
#include "lexico/v1/inference.grpc.pb.h"
#include "tools/cli/command.h"

namespace lexico::cli {

// Thread safety: all methods may be called from any thread.
class Client {
 public:
  // Connects lazily; InvalidArgument for a malformed address or unreadable TLS files.
  static absl::StatusOr<Client> Connect(const Globals& globals);

  v1::Inference::Stub& inference() const { return *inference_; }
  v1::Admin::Stub& admin() const { return *admin_; }

  // A context with the tenant and the deadline: --timeout where given, else `timeout` (zero: none;
  // the same value is given to Convert).
  std::unique_ptr<grpc::ClientContext> NewContext(absl::Duration timeout) const;

  // One unary call, for example Call(&v1::Inference::Stub::GetSession, request).
  template <typename Stub, typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                const Request& request,
                                absl::Duration timeout = absl::Seconds(30)) const {
    Response response;
    const auto context = NewContext(timeout);
    const absl::Status status =
        Convert((StubOf<Stub>().*method)(context.get(), request, &response), timeout);
    if (!status.ok()) return status;
    return response;
  }

  // The status of a finished call, with what the user can do about it: a deadline names --timeout,
  // a connection that was never made says how to start a server, and a remedy that is an RPC
  // becomes the command that calls it.
  absl::Status Convert(const grpc::Status& status, absl::Duration timeout) const;

 private:
  Client() = default;
  // --timeout where given, else `timeout`; zero: none.
  absl::Duration Effective(absl::Duration timeout) const;
  // Whether the last call found no server at all.
  bool IsUnconnected() const;
  template <typename Stub>
  Stub& StubOf() const {
    if constexpr (std::is_same_v<Stub, v1::Admin::Stub>) {
      return *admin_;
    } else {
      return *inference_;
    }
  }

  Globals globals_;
  std::shared_ptr<grpc::Channel> channel_;
  std::shared_ptr<v1::Inference::Stub> inference_;
  std::shared_ptr<v1::Admin::Stub> admin_;
};

}  // namespace lexico::cli

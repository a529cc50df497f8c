// The coordinator's own connection to the cache store, when it was given --store. Control only: it
// deletes sessions and looks at what is there; pages and manifests are the workers' business.
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lexico/v1/cache_store.grpc.pb.h"
#include "proto/rpc/server.h"

namespace lexico::coord {

class StoreLink {
 public:
  // Connects lazily. InvalidArgument for a malformed address or unreadable TLS files.
  static absl::StatusOr<std::unique_ptr<StoreLink>> Create(const std::string& address,
                                                           const rpc::TlsOptions& tls);

  // As CacheStore.DeleteManifest; `create_time` unset is absl::InfinitePast().
  absl::Status Delete(const std::string& session_id, uint64_t epoch, absl::Time create_time) const;
  absl::StatusOr<v1::StoreStatus> Status() const;
  // As CacheStore.Verify; `visit` hears every message, and ends it with false. `context` is that of
  // the caller, whose end is the end of this.
  absl::Status Verify(const grpc::ServerContext& context, const v1::VerifyRequest& request,
                      const std::function<bool(const v1::VerifyProgress&)>& visit) const;
  // The first thousand sessions after `start_after`.
  absl::StatusOr<v1::ListManifestsResponse> List(const std::string& start_after) const;

 private:
  StoreLink(std::string address, std::unique_ptr<v1::CacheStore::StubInterface> stub)
      : address_(std::move(address)), stub_(std::move(stub)) {}
  absl::Status Answer(const grpc::Status& status) const;

  const std::string address_;
  const std::unique_ptr<v1::CacheStore::StubInterface> stub_;
};

}  // namespace lexico::coord

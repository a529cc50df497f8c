// Manifests over gRPC, in chunks, bounded by progress: a stream on which no chunk moves for
// `stall_timeout` is cancelled and DEADLINE_EXCEEDED, however far its deadline is.
#pragma once

#include <grpcpp/grpcpp.h>

#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "cache_store/client/client.h"
#include "lexico/v1/cache_store.grpc.pb.h"

namespace lexico::store {

struct StreamLimits {
  absl::Time deadline;
  absl::Duration stall_timeout;
};

grpc::Status SendManifest(v1::CacheStore::Stub& stub, std::string_view session_id, uint64_t epoch,
                          std::string_view manifest, const StreamLimits& limits);

// INTERNAL: the store sends more than kManifestBytesMax. `out` is set when OK.
grpc::Status ReceiveManifest(v1::CacheStore::Stub& stub, std::string_view session_id,
                             const StreamLimits& limits, StoredManifest* out);

}  // namespace lexico::store

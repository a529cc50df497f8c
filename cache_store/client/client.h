// A store, as workers see it: pages and manifests in, pages and manifests out.
//
// Pages travel over the bulk plane (docs/formats/bulk.md) from and to the memory where they live;
// control calls are gRPC. Connections are made when first needed and again after a failure, so a
// client may be created before its store and outlives the store's restarts.
//
// Every call blocks and takes a deadline. Errors of all calls:
//   Unavailable         the store is down or went away in the middle; nothing is known about an
//                       unacknowledged put, repeating it is safe. rpc::RetryAfterOf says when.
//   DeadlineExceeded    as above; the store hangs (ClientOptions::stall_timeout), or is too slow
//   for
//                       the call's deadline
//   ResourceExhausted   the store is full; nothing of the call is acknowledged.
//                       rpc::RetryAfterOf says when to try again
// After Unavailable, calls fail at once (without a connection attempt) until the retry time.
//
// Thread safety: all methods may be called from any thread; calls of several threads share the
// connection and run at the same time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cache_store/format/page.h"
#include "proto/base/metrics.h"
#include "proto/rpc/server.h"

namespace lexico::store {

struct ClientOptions {
  std::string address;  // host:port of the control plane
  // host:port of the bulk plane. Empty: the control plane's host, and the port it tells.
  std::string bulk_address;
  rpc::TlsOptions tls;  // of the control plane
  // How long calls fail at once after a failed connection attempt.
  absl::Duration retry_after = absl::Milliseconds(200);
  // A store that takes a call and acknowledges nothing for this long hangs: the call fails then,
  // however far its deadline is. A call that moves bytes may take until its deadline.
  absl::Duration stall_timeout = absl::Seconds(10);
};

// A page to be stored. Payload bytes must stay unchanged until the call returns.
struct PageOut {
  EncodedHeader header;              // of EncodeHeader, with the page's key
  std::span<const uint8_t> payload;  // any memory, any alignment
};

// A page to be fetched.
struct PageIn {
  ExpectedPage expected;       // the key, and what else must hold
  std::span<uint8_t> payload;  // where the payload lands; exactly as long as the page's
  // Results. The payload's bytes are undefined unless status is OK; OK pages are verified
  // (checksum, atom indices, `expected`). NotFound: the store lacks it. DataLoss: damaged in the
  // store, which has dropped it, or on the way. FailedPrecondition: another page than expected.
  PageHeader header;
  absl::Status status;
};

struct StoredManifest {
  std::string bytes;  // docs/formats/manifest.md
  uint64_t epoch = 0;
};

struct TierInfo {
  std::string tier;  // "host", "disk"
  uint64_t bytes = 0;
  uint64_t bytes_max = 0;
  uint64_t n_pages = 0;
};

struct StoreInfo {
  std::vector<TierInfo> tiers;  // fastest first
  uint64_t n_manifests = 0;
  uint64_t n_checksum_failures = 0;
  int bulk_port = 0;
  std::string version;
};

class Client {
 public:
  // Does not connect. InvalidArgument for a malformed address or unreadable TLS files. `metrics`
  // may be null and must outlive the client (it counts lexico_store_checksum_failures_total{wire}).
  static absl::StatusOr<std::unique_ptr<Client>> Create(const ClientOptions& options,
                                                        base::Metrics* metrics);
  virtual ~Client() = default;

  // OK: all pages are durable (as far as the store's tiers are: on disk, when it has one), and kept
  // for at least a minute, or as long as a manifest names them. A page that the store has already
  // is not written again. Otherwise nothing is known and the call may be repeated. Any number of
  // pages; they go out in several frames, a bounded number of which is in flight.
  virtual absl::Status PutPages(std::span<const PageOut> pages, absl::Time deadline) = 0;

  // OK: every page has its own status. Otherwise the call's error is the status of each page that
  // was not answered.
  virtual absl::Status GetPages(std::span<PageIn> pages, absl::Time deadline) = 0;

  // Which pages the store has, in the order of `keys`; those it keeps for at least a minute.
  virtual absl::StatusOr<std::vector<bool>> HasPages(std::span<const PageKey> keys,
                                                     absl::Time deadline) = 0;

  // OK: durable. Aborted "epoch_stale" when the stored one has a larger epoch. InvalidArgument when
  // `manifest` is malformed or names another session or epoch.
  virtual absl::Status PutManifest(std::string_view session_id, uint64_t epoch,
                                   std::string_view manifest, absl::Time deadline) = 0;
  // NotFound; DataLoss when it is damaged.
  virtual absl::StatusOr<StoredManifest> GetManifest(std::string_view session_id,
                                                     absl::Time deadline) = 0;
  // Idempotent: OK when there is none. Aborted "epoch_stale" as above.
  virtual absl::Status DeleteManifest(std::string_view session_id, uint64_t epoch,
                                      absl::Time deadline) = 0;

  virtual absl::StatusOr<StoreInfo> GetStatus(absl::Time deadline) = 0;
};

}  // namespace lexico::store

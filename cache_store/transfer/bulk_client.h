// A worker's side of the bulk plane (docs/formats/bulk.md): one connection, made when first needed
// and again after a failure, shared by all threads, with many requests in flight.
//
// Nothing is copied: pages are sent from the caller's memory and land in it. A call therefore
// returns only when no socket operation refers to that memory any more.
//
// Thread safety: all methods may be called from any thread. Lifetime: calls must have returned
// before the client is destroyed.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cache_store/format/page.h"

namespace lexico::store {

struct BulkOut {
  PageKey key;
  std::span<const uint8_t> header;   // kPageHeaderBytes
  std::span<const uint8_t> payload;  // unchanged until the call returns
};

struct BulkIn {
  PageKey key;
  std::span<uint8_t> payload;  // where it lands
  // Results, unverified: OK, the store's answer for this page, or FailedPrecondition when the page
  // has another length than `payload`.
  EncodedHeader header;
  absl::Status status;
};

struct BulkClientOptions {
  absl::Duration connect_timeout = absl::Seconds(2);
  // A connection on which requests wait and no byte moves for this long, in either direction, is
  // closed: its store hangs. A large transfer takes as long as it takes.
  absl::Duration stall_timeout = absl::Seconds(10);
  // After a failed attempt, calls fail at once for this long.
  absl::Duration retry_after = absl::Milliseconds(200);
  // Of one call; the caller's other frames wait until earlier ones are answered.
  int n_frames_in_flight = 4;
  // Data of one frame, unless a single page is larger. Large enough that the round trip does not
  // count, small enough that calls of other threads get their turn.
  size_t frame_bytes = 4u << 20;
};

// InvalidArgument unless `address` is host:port.
absl::Status CheckBulkAddress(const std::string& address);

class BulkClient {
 public:
  static std::unique_ptr<BulkClient> Create(const BulkClientOptions& options);
  virtual ~BulkClient() = default;

  // host:port of the store; taken by the next connection attempt.
  virtual void SetAddress(const std::string& address) = 0;
  virtual bool connected() const = 0;

  // OK: the store has acknowledged all pages. Unavailable: no connection, or lost in the middle.
  // DeadlineExceeded: the store hangs (stall_timeout), or the call's own deadline passed; the
  // connection is closed, which in the second case fails other calls that use it with Unavailable.
  // Otherwise the store's answer to the first frame that it refused.
  virtual absl::Status Put(std::span<const BulkOut> pages, absl::Time deadline) = 0;
  // OK: every page has a status of its own. Otherwise as Put; pages without an answer have the
  // call's status.
  virtual absl::Status Get(std::span<BulkIn> pages, absl::Time deadline) = 0;
};

}  // namespace lexico::store

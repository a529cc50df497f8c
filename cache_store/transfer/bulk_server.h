// The store's side of the bulk plane (docs/formats/bulk.md): takes connections, reads pages into
// the buffers in which they will stay, verifies them, and sends pages from where they lie.
//
// Sockets are served by one thread, handlers by a small pool, so a slow disk delays nobody's
// socket. A connection never holds more than kBulkInFlightBytesMax; a frame that breaks the rules
// ends its connection and nothing else.
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cache_store/format/page_buffer.h"

namespace lexico::store {

// What the server serves. Called from several threads at once; may block.
class BulkHandler {
 public:
  virtual ~BulkHandler() = default;
  // Pages are verified and have the keys they claim.
  virtual absl::Status PutPages(std::vector<NamedPage> pages) = 0;
  // One answer per key.
  virtual std::vector<absl::StatusOr<PagePtr>> GetPages(std::span<const PageKey> keys) = 0;
  // A connection ended because its peer broke the rules or a page arrived damaged; for counting.
  virtual void OnRefused(const absl::Status& why) = 0;
};

struct BulkServerOptions {
  std::string address;  // host:port; port 0 picks one
  int n_handler_threads = 4;
  // A peer that stops in the middle of a frame or does not take a reply is cut off after this.
  absl::Duration stall_timeout = absl::Seconds(30);
  absl::Duration idle_timeout = absl::Minutes(10);
};

class BulkServer {
 public:
  // `handler` must outlive the server. InvalidArgument for a malformed address, Unavailable with
  // the address when the port is taken.
  static absl::StatusOr<std::unique_ptr<BulkServer>> Start(const BulkServerOptions& options,
                                                           BulkHandler* handler);
  // Closes all connections; waits for running handlers.
  virtual ~BulkServer() = default;

  virtual int port() const = 0;
  virtual int n_connections() const = 0;
};

}  // namespace lexico::store

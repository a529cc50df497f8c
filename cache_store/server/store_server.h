// A whole store: tiers, control plane, bulk plane, metrics. What main.cc and in-process tests run.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cache_store/server/cache_store_service.h"
#include "cache_store/tiers/scrubber.h"
#include "cache_store/tiers/tiered_store.h"
#include "cache_store/transfer/bulk_server.h"
#include "proto/base/metrics.h"
#include "proto/rpc/server.h"

namespace lexico::store {

struct StoreServerOptions {
  std::string address = "127.0.0.1:50053";       // gRPC; port 0 picks one
  std::string bulk_address = "127.0.0.1:50054";  // pages over TCP
  std::string metrics_address;                   // empty: metrics are not served
  rpc::TlsOptions tls;                           // of the control plane
  TieredStoreOptions store;
  uint64_t scrub_bytes_per_s = 0;  // 0, and without a disk: no scrub
};

class StoreServer {
 public:
  // Serves when it returns. Errors as TieredStore::Open; Unavailable for an address that is taken.
  static absl::StatusOr<std::unique_ptr<StoreServer>> Start(const StoreServerOptions& options);
  // Shuts down without grace.
  ~StoreServer();

  int port() const { return server_->port(); }
  int bulk_port() const { return bulk_->port(); }
  int metrics_port() const { return metrics_port_; }  // 0: not served
  TieredStore& store() { return *store_; }
  base::Metrics& metrics() { return metrics_; }

  // Takes no new call, gives running ones `grace`, closes the bulk plane. What was acknowledged is
  // durable already. Blocks.
  void Shutdown(absl::Duration grace);

 private:
  StoreServer() : metrics_("store") {}

  base::Metrics metrics_;
  std::unique_ptr<TieredStore> store_;
  std::unique_ptr<Scrubber> scrubber_;
  std::unique_ptr<BulkService> bulk_service_;
  std::unique_ptr<CacheStoreService> service_;
  std::unique_ptr<BulkServer> bulk_;
  std::unique_ptr<rpc::Server> server_;
  int metrics_port_ = 0;
};

}  // namespace lexico::store

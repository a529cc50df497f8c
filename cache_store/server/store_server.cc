#include "cache_store/server/store_server.h"

#include "proto/base/status.h"

namespace lexico::store {

absl::StatusOr<std::unique_ptr<StoreServer>> StoreServer::Start(const StoreServerOptions& options) {
  std::unique_ptr<StoreServer> server(new StoreServer);
  base::Metrics* metrics = &server->metrics_;
  LEXICO_ASSIGN_OR_RETURN(server->store_, TieredStore::Open(options.store, metrics));
  server->bulk_service_ = std::make_unique<BulkService>(server->store_.get(), metrics);
  server->service_ = std::make_unique<CacheStoreService>(server->store_.get(), metrics);
  LEXICO_ASSIGN_OR_RETURN(server->bulk_, BulkServer::Start({.address = options.bulk_address},
                                                           server->bulk_service_.get()));
  server->service_->SetBulkPort(server->bulk_->port());
  if (!options.metrics_address.empty()) {
    LEXICO_ASSIGN_OR_RETURN(server->metrics_port_, metrics->Serve(options.metrics_address));
  }
  LEXICO_ASSIGN_OR_RETURN(
      server->server_, rpc::Server::Start(options.address, {server->service_.get()}, options.tls));
  if (options.scrub_bytes_per_s > 0 && !options.store.data_dir.empty()) {
    server->scrubber_ = std::make_unique<Scrubber>(
        server->store_.get(), ScrubberOptions{.bytes_per_s = options.scrub_bytes_per_s});
  }
  server->server_->SetServing(true);
  return server;
}

StoreServer::~StoreServer() { Shutdown(absl::ZeroDuration()); }

void StoreServer::Shutdown(absl::Duration grace) {
  if (server_ != nullptr) server_->Shutdown(grace);
  server_.reset();
  bulk_.reset();
  scrubber_.reset();
}

}  // namespace lexico::store

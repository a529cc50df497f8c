// The CacheStore gRPC service and the handler of the bulk plane, both over one TieredStore.
//
// Thread safety: gRPC and the bulk server call from many threads; the store is thread-safe.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "cache_store/tiers/tiered_store.h"
#include "cache_store/transfer/bulk_server.h"
#include "lexico/v1/cache_store.grpc.pb.h"
#include "proto/base/metrics.h"

namespace lexico::store {

class BulkService : public BulkHandler {
 public:
  // Both must outlive the service.
  BulkService(TieredStore* store, base::Metrics* metrics) : store_(store), metrics_(metrics) {}

  absl::Status PutPages(std::vector<NamedPage> pages) override;
  std::vector<absl::StatusOr<PagePtr>> GetPages(std::span<const PageKey> keys) override;
  void OnRefused(const absl::Status& why) override;

 private:
  TieredStore* const store_;
  base::Metrics* const metrics_;
};

class CacheStoreService final : public v1::CacheStore::Service {
 public:
  // Both must outlive the service.
  CacheStoreService(TieredStore* store, base::Metrics* metrics)
      : store_(store), metrics_(metrics) {}

  // What GetStatus tells. Called once, before the first call.
  void SetBulkPort(int port) { bulk_port_ = port; }

  grpc::Status GetStatus(grpc::ServerContext* context, const v1::GetStatusRequest* request,
                         v1::StoreStatus* response) override;
  grpc::Status HasPages(grpc::ServerContext* context, const v1::HasPagesRequest* request,
                        v1::HasPagesResponse* response) override;
  grpc::Status PutManifest(grpc::ServerContext* context,
                           grpc::ServerReader<v1::PutManifestRequest>* reader,
                           v1::PutManifestResponse* response) override;
  grpc::Status GetManifest(grpc::ServerContext* context, const v1::GetManifestRequest* request,
                           grpc::ServerWriter<v1::GetManifestResponse>* writer) override;
  grpc::Status DeleteManifest(grpc::ServerContext* context,
                              const v1::DeleteManifestRequest* request,
                              v1::DeleteManifestResponse* response) override;
  grpc::Status ListManifests(grpc::ServerContext* context, const v1::ListManifestsRequest* request,
                             v1::ListManifestsResponse* response) override;
  grpc::Status Verify(grpc::ServerContext* context, const v1::VerifyRequest* request,
                      grpc::ServerWriter<v1::VerifyProgress>* writer) override;

 private:
  absl::Status VerifyAll(grpc::ServerContext* context, const v1::VerifyRequest& request,
                         grpc::ServerWriter<v1::VerifyProgress>* writer);
  // Counts the call, adds the reason and the retry time that its code stands for.
  grpc::Status Finish(const char* method, const absl::Status& status);

  TieredStore* const store_;
  base::Metrics* const metrics_;
  std::atomic<int> bulk_port_ = 0;
};

}  // namespace lexico::store

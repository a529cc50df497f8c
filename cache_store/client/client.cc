#include "cache_store/client/client.h"

#include <fmt/format.h>

#include <algorithm>

#include "absl/time/clock.h"
#include "cache_store/client/manifest_stream.h"
#include "cache_store/transfer/bulk_client.h"
#include "lexico/v1/cache_store.grpc.pb.h"
#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "proto/rpc/channel.h"
#include "proto/rpc/status_map.h"

namespace lexico::store {
namespace {

// A full store is emptied by leases that end and by deleted sessions, neither in an instant.
constexpr absl::Duration kRetryWhenFull = absl::Seconds(5);

std::string HostOf(const std::string& address) { return address.substr(0, address.rfind(':')); }

class ClientImpl : public Client {
 public:
  ClientImpl(const ClientOptions& options, const std::shared_ptr<grpc::Channel>& channel,
             base::Metrics* metrics)
      : options_(options),
        metrics_(metrics),
        stub_(v1::CacheStore::NewStub(channel)),
        bulk_(BulkClient::Create(
            {.stall_timeout = options.stall_timeout, .retry_after = options.retry_after})) {
    bulk_->SetAddress(options.bulk_address);
  }

  absl::Status PutPages(std::span<const PageOut> pages, absl::Time deadline) override {
    std::vector<BulkOut> out;
    out.reserve(pages.size());
    for (const PageOut& page : pages) {
      LEXICO_ASSIGN_OR_RETURN(const PageHeader header, DecodeHeader(page.header));
      out.push_back({header.key, page.header, page.payload});
    }
    return OverBulk(deadline, [&] { return bulk_->Put(out, deadline); });
  }

  absl::Status GetPages(std::span<PageIn> pages, absl::Time deadline) override {
    std::vector<BulkIn> in(pages.size());
    for (size_t i = 0; i < pages.size(); ++i) {
      in[i].key = pages[i].expected.key;
      in[i].payload = pages[i].payload;
      in[i].status = absl::UnavailableError("not asked for");
    }
    const absl::Status status = OverBulk(deadline, [&] { return bulk_->Get(in, deadline); });
    for (size_t i = 0; i < pages.size(); ++i) {
      pages[i].status = in[i].status.ok() ? Verify(in[i], &pages[i]) : in[i].status;
      if (!status.ok() && absl::IsUnavailable(pages[i].status)) pages[i].status = status;
    }
    return status;
  }

  absl::StatusOr<std::vector<bool>> HasPages(std::span<const PageKey> keys,
                                             absl::Time deadline) override {
    std::vector<bool> present;
    present.reserve(keys.size());
    for (size_t begin = 0; begin < keys.size(); begin += base::kPageKeysPerCallMax) {
      v1::HasPagesRequest request;
      for (const PageKey& key :
           keys.subspan(begin, std::min(base::kPageKeysPerCallMax, keys.size() - begin))) {
        request.add_page_keys(key.bytes.data(), key.bytes.size());
      }
      v1::HasPagesResponse response;
      grpc::ClientContext context;
      SetDeadline(context, deadline);
      LEXICO_RETURN_IF_ERROR(Answer(stub_->HasPages(&context, request, &response)));
      if (response.present_size() != request.page_keys_size()) {
        return absl::InternalError(fmt::format("the store at {} answered for {} of {} pages",
                                               options_.address, response.present_size(),
                                               request.page_keys_size()));
      }
      present.insert(present.end(), response.present().begin(), response.present().end());
    }
    return present;
  }

  absl::Status PutManifest(std::string_view session_id, uint64_t epoch, std::string_view manifest,
                           absl::Time deadline) override {
    return Answer(SendManifest(*stub_, session_id, epoch, manifest, Limits(deadline)));
  }

  absl::StatusOr<StoredManifest> GetManifest(std::string_view session_id,
                                             absl::Time deadline) override {
    StoredManifest manifest;
    LEXICO_RETURN_IF_ERROR(
        Answer(ReceiveManifest(*stub_, session_id, Limits(deadline), &manifest)));
    return manifest;
  }

  absl::Status DeleteManifest(std::string_view session_id, uint64_t epoch,
                              absl::Time deadline) override {
    grpc::ClientContext context;
    SetDeadline(context, deadline);
    v1::DeleteManifestRequest request;
    request.set_session_id(std::string(session_id));
    request.set_epoch(epoch);
    v1::DeleteManifestResponse response;
    return Answer(stub_->DeleteManifest(&context, request, &response));
  }

  absl::StatusOr<StoreInfo> GetStatus(absl::Time deadline) override {
    grpc::ClientContext context;
    SetDeadline(context, deadline);
    v1::StoreStatus response;
    LEXICO_RETURN_IF_ERROR(Answer(stub_->GetStatus(&context, v1::GetStatusRequest(), &response)));
    StoreInfo info{.n_manifests = response.n_manifests(),
                   .n_checksum_failures = response.n_checksum_failures(),
                   .bulk_port = response.bulk_port(),
                   .version = response.version()};
    for (const v1::TierStatus& tier : response.tiers()) {
      info.tiers.push_back({tier.tier(), tier.bytes(), tier.bytes_max(), tier.n_pages()});
    }
    return info;
  }

 private:
  StreamLimits Limits(absl::Time deadline) const { return {deadline, options_.stall_timeout}; }
  // Of a call of one small message each way, whose only progress is its answer.
  void SetDeadline(grpc::ClientContext& context, absl::Time deadline) const {
    context.set_deadline(
        absl::ToChronoTime(std::min(deadline, absl::Now() + options_.stall_timeout)));
  }

  // Runs `call` with a bulk address; once more at once when an existing connection turned out to be
  // dead, as after a restart of the store.
  template <typename Call>
  absl::Status OverBulk(absl::Time deadline, Call call) {
    for (int attempt = 0;; ++attempt) {
      const bool was_connected = bulk_->connected();
      absl::Status status = was_connected ? absl::OkStatus() : FindBulk(deadline);
      if (status.ok()) status = call();
      if (absl::IsUnavailable(status) && was_connected && attempt == 0) continue;
      return WithRetry(status);
    }
  }

  // The store may have come back on another port.
  absl::Status FindBulk(absl::Time deadline) {
    if (!options_.bulk_address.empty()) return absl::OkStatus();
    LEXICO_ASSIGN_OR_RETURN(const StoreInfo info, GetStatus(deadline));
    bulk_->SetAddress(fmt::format("{}:{}", HostOf(options_.address), info.bulk_port));
    return absl::OkStatus();
  }

  absl::Status Verify(const BulkIn& in, PageIn* page) {
    absl::Status status;
    if (auto header = DecodeHeader(in.header); header.ok()) {
      page->header = *header;
      status = VerifyPayload(*header, page->payload);
    } else {
      status = header.status();
    }
    if (absl::IsDataLoss(status) && metrics_ != nullptr) {
      metrics_->Counter("lexico_store_checksum_failures_total", {"wire"}).Increment();
    }
    LEXICO_RETURN_IF_ERROR(status);
    return CheckExpected(page->header, page->expected);
  }

  absl::Status Answer(const grpc::Status& status) const {
    return WithRetry(
        base::Annotate(rpc::FromGrpc(status), fmt::format("store {}", options_.address)));
  }

  // Adds when to come back where the store could not say it itself.
  absl::Status WithRetry(const absl::Status& status) const {
    if (!rpc::ReasonOf(status).empty()) return status;
    if (absl::IsUnavailable(status)) {
      return rpc::WithDetail(status, "store_unavailable", options_.retry_after);
    }
    if (absl::IsResourceExhausted(status)) {
      return rpc::WithDetail(status, "store_full", kRetryWhenFull);
    }
    return status;
  }

  const ClientOptions options_;
  base::Metrics* const metrics_;
  const std::unique_ptr<v1::CacheStore::Stub> stub_;
  const std::unique_ptr<BulkClient> bulk_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> Client::Create(const ClientOptions& options,
                                                       base::Metrics* metrics) {
  LEXICO_ASSIGN_OR_RETURN(const auto channel, rpc::MakeChannel(options.address, options.tls));
  if (!options.bulk_address.empty()) {
    LEXICO_RETURN_IF_ERROR(CheckBulkAddress(options.bulk_address));
  }
  return std::make_unique<ClientImpl>(options, channel, metrics);
}

}  // namespace lexico::store

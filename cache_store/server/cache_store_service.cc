#include "cache_store/server/cache_store_service.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "proto/base/limits.h"
#include "proto/base/log.h"
#include "proto/base/status.h"
#include "proto/rpc/status_map.h"
#include "proto/rpc/timestamp.h"

namespace lexico::store {
namespace {

constexpr char kVersion[] = "0.1.0";
constexpr int kListPageDefault = 100;
constexpr uint64_t kVerifyStepBytes = 1u << 20;
// A full store is emptied by leases that end after a minute and by deleted sessions.
constexpr absl::Duration kRetryWhenFull = absl::Seconds(5);
constexpr absl::Duration kRetryWhenDown = absl::Milliseconds(500);

absl::StatusOr<std::vector<PageKey>> KeysOf(const v1::HasPagesRequest& request) {
  if (static_cast<size_t>(request.page_keys_size()) > base::kPageKeysPerCallMax) {
    return absl::InvalidArgumentError(fmt::format("{} page keys in one call, at most {} are taken",
                                                  request.page_keys_size(),
                                                  base::kPageKeysPerCallMax));
  }
  std::vector<PageKey> keys;
  keys.reserve(request.page_keys_size());
  for (const std::string& bytes : request.page_keys()) {
    PageKey key;
    if (bytes.size() != key.bytes.size()) {
      return absl::InvalidArgumentError(fmt::format("page key {} has {} bytes, must have {}",
                                                    keys.size(), bytes.size(), key.bytes.size()));
    }
    std::memcpy(key.bytes.data(), bytes.data(), bytes.size());
    keys.push_back(key);
  }
  return keys;
}

absl::Status CheckSessionId(const std::string& session_id) {
  if (!session_id.empty() && session_id.size() <= base::kNameBytesMax) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("session_id has {} bytes, allowed are 1 to {}",
                                                session_id.size(), base::kNameBytesMax));
}

struct ManifestUpload {
  std::string session_id;
  uint64_t epoch = 0;
  std::string bytes;
};

absl::StatusOr<ManifestUpload> ReadUpload(grpc::ServerReader<v1::PutManifestRequest>* reader) {
  v1::PutManifestRequest message;
  ManifestUpload upload;
  if (!reader->Read(&message)) {
    return absl::InvalidArgumentError("PutManifest without a message; the first names the session");
  }
  upload.session_id = message.session_id();
  upload.epoch = message.epoch();
  LEXICO_RETURN_IF_ERROR(CheckSessionId(upload.session_id));
  do {
    if (message.manifest().size() > base::kManifestBytesMax - upload.bytes.size()) {
      return absl::InvalidArgumentError(
          fmt::format("the manifest of session {} is longer than {} bytes", upload.session_id,
                      base::kManifestBytesMax));
    }
    upload.bytes += message.manifest();
  } while (reader->Read(&message));
  return upload;
}

}  // namespace

absl::Status BulkService::PutPages(std::vector<NamedPage> pages) {
  absl::Status status = store_->Put(pages);
  metrics_->Counter("lexico_requests_total", {"PutPages", absl::StatusCodeToString(status.code())})
      .Increment();
  if (absl::IsResourceExhausted(status)) {
    metrics_->Counter("lexico_store_refused_total", {"full"}).Increment();
    spdlog::warn("put refused: {}", std::string(status.message()));
  }
  return status;
}

std::vector<absl::StatusOr<PagePtr>> BulkService::GetPages(std::span<const PageKey> keys) {
  auto pages = store_->Get(keys);
  for (const auto& page : pages) {
    if (page.ok() || absl::IsNotFound(page.status())) continue;
    spdlog::error("{}", std::string(page.status().message()));
  }
  metrics_->Counter("lexico_requests_total", {"GetPages", "OK"}).Increment();
  return pages;
}

void BulkService::OnRefused(const absl::Status& why) {
  const bool damaged = absl::IsDataLoss(why);
  const char* reason = damaged                           ? "damaged"
                       : absl::IsResourceExhausted(why)  ? "connections"
                       : absl::IsFailedPrecondition(why) ? "precondition"
                                                         : "protocol";
  metrics_->Counter("lexico_store_refused_total", {reason}).Increment();
  if (damaged) metrics_->Counter("lexico_store_checksum_failures_total", {"wire"}).Increment();
  spdlog::warn("bulk plane: {}", std::string(why.message()));
}

grpc::Status CacheStoreService::Finish(const char* method, const absl::Status& status) {
  metrics_->Counter("lexico_requests_total", {method, absl::StatusCodeToString(status.code())})
      .Increment();
  switch (status.code()) {
    case absl::StatusCode::kAborted:
      return rpc::ToGrpc(rpc::WithDetail(status, "epoch_stale"));
    case absl::StatusCode::kResourceExhausted:
      return rpc::ToGrpc(rpc::WithDetail(status, "store_full", kRetryWhenFull));
    case absl::StatusCode::kUnavailable:
      return rpc::ToGrpc(rpc::WithDetail(status, "store_disk", kRetryWhenDown));
    default:
      return rpc::ToGrpc(status);
  }
}

grpc::Status CacheStoreService::GetStatus(grpc::ServerContext*, const v1::GetStatusRequest*,
                                          v1::StoreStatus* response) {
  const StoreUsage usage = store_->usage();
  for (const auto& tier : usage.tiers) {
    v1::TierStatus* out = response->add_tiers();
    out->set_tier(std::string(tier.name));
    out->set_bytes(tier.usage.bytes);
    out->set_bytes_max(tier.usage.bytes_max);
    out->set_n_pages(tier.usage.n_pages);
  }
  response->set_n_manifests(usage.n_manifests);
  response->set_n_checksum_failures(usage.n_checksum_failures);
  if (usage.scrub_time_us != 0) {
    *response->mutable_scrub_time() = rpc::TimeToProto(absl::FromUnixMicros(usage.scrub_time_us));
  }
  response->set_bulk_port(bulk_port_);
  response->set_version(kVersion);
  return Finish("GetStatus", absl::OkStatus());
}

grpc::Status CacheStoreService::Verify(grpc::ServerContext* context,
                                       const v1::VerifyRequest* request,
                                       grpc::ServerWriter<v1::VerifyProgress>* writer) {
  return Finish("Verify", VerifyAll(context, *request, writer));
}

absl::Status CacheStoreService::VerifyAll(grpc::ServerContext* context,
                                          const v1::VerifyRequest& request,
                                          grpc::ServerWriter<v1::VerifyProgress>* writer) {
  v1::VerifyProgress progress;
  progress.set_bytes_all(store_->usage().tiers.back().usage.bytes);
  ScrubCursor cursor;
  const absl::Time begin = absl::Now();
  absl::Time told = begin;
  while (!progress.done()) {
    LEXICO_ASSIGN_OR_RETURN(const ScrubStep step, store_->Scrub(&cursor, kVerifyStepBytes));
    progress.set_n_pages(progress.n_pages() + step.n_pages);
    progress.set_bytes(progress.bytes() + step.bytes);
    progress.set_n_damaged(progress.n_damaged() + step.damaged.size());
    progress.set_n_repaired(progress.n_repaired() + step.n_repaired);
    progress.set_done(step.pass_ended);
    if (context->IsCancelled()) return absl::CancelledError("the client went away");
    if (progress.done() || absl::Now() - told >= absl::Seconds(1)) {
      told = absl::Now();
      if (!writer->Write(progress)) return absl::CancelledError("the client went away");
    }
    if (request.bytes_per_second() == 0) continue;
    // In pieces, so that a client that goes away is noticed.
    const absl::Time due = begin + absl::Seconds(static_cast<double>(progress.bytes()) /
                                                 static_cast<double>(request.bytes_per_second()));
    while (absl::Now() < due && !context->IsCancelled()) {
      absl::SleepFor(std::min(due - absl::Now(), absl::Milliseconds(100)));
    }
  }
  return absl::OkStatus();
}

grpc::Status CacheStoreService::HasPages(grpc::ServerContext*, const v1::HasPagesRequest* request,
                                         v1::HasPagesResponse* response) {
  const auto keys = KeysOf(*request);
  if (keys.ok()) {
    for (const bool present : store_->Touch(*keys)) response->add_present(present);
  }
  return Finish("HasPages", keys.status());
}

grpc::Status CacheStoreService::PutManifest(grpc::ServerContext*,
                                            grpc::ServerReader<v1::PutManifestRequest>* reader,
                                            v1::PutManifestResponse*) {
  auto upload = ReadUpload(reader);
  absl::Status status = upload.status();
  if (status.ok()) {
    status = store_->PutManifest(upload->session_id, upload->epoch, std::move(upload->bytes));
    if (absl::IsNotFound(status)) status = rpc::WithDetail(status, "session_deleted");
  }
  return Finish("PutManifest", status);
}

grpc::Status CacheStoreService::GetManifest(grpc::ServerContext*,
                                            const v1::GetManifestRequest* request,
                                            grpc::ServerWriter<v1::GetManifestResponse>* writer) {
  const auto record = store_->GetManifest(request->session_id());
  if (!record.ok()) return Finish("GetManifest", record.status());
  v1::GetManifestResponse chunk;
  chunk.set_epoch(record->epoch);
  for (size_t begin = 0; begin < record->bytes.size(); begin += base::kManifestChunkBytesMax) {
    chunk.set_manifest(record->bytes.substr(begin, base::kManifestChunkBytesMax));
    if (!writer->Write(chunk)) break;  // the caller left
  }
  return Finish("GetManifest", absl::OkStatus());
}

grpc::Status CacheStoreService::DeleteManifest(grpc::ServerContext*,
                                               const v1::DeleteManifestRequest* request,
                                               v1::DeleteManifestResponse*) {
  absl::Status status = CheckSessionId(request->session_id());
  const int64_t create_time_us =
      request->has_create_time() ? absl::ToUnixMicros(rpc::TimeFromProto(request->create_time()))
                                 : 0;
  if (status.ok()) {
    status = store_->DeleteManifest(request->session_id(), request->epoch(), create_time_us);
  }
  return Finish("DeleteManifest", status);
}

grpc::Status CacheStoreService::ListManifests(grpc::ServerContext*,
                                              const v1::ListManifestsRequest* request,
                                              v1::ListManifestsResponse* response) {
  if (request->page_size() < 0 || request->page_size() > base::kListPageMax) {
    return Finish("ListManifests", absl::InvalidArgumentError(
                                       fmt::format("page_size is {}, allowed are 0 to {}",
                                                   request->page_size(), base::kListPageMax)));
  }
  const size_t n_max = request->page_size() == 0 ? kListPageDefault : request->page_size();
  auto summaries = store_->ListManifests(request->start_after(), n_max + 1);
  response->set_more(summaries.size() > n_max);
  if (summaries.size() > n_max) summaries.pop_back();
  for (const ManifestSummary& summary : summaries) {
    v1::ManifestEntry* entry = response->add_entries();
    entry->set_session_id(summary.session_id);
    entry->set_epoch(summary.epoch);
    entry->set_n_tokens(static_cast<int64_t>(summary.n_tokens));
    entry->set_n_pages(static_cast<int64_t>(summary.n_pages));
    entry->set_tenant(summary.tenant);
    entry->set_tier(summary.in_host_memory ? v1::TIER_HOST : v1::TIER_DISK);
    if (summary.create_time_us != 0) {
      *entry->mutable_create_time() =
          rpc::TimeToProto(absl::FromUnixMicros(summary.create_time_us));
    }
    *entry->mutable_update_time() = rpc::TimeToProto(absl::FromUnixMicros(summary.update_time_us));
  }
  return Finish("ListManifests", absl::OkStatus());
}

}  // namespace lexico::store

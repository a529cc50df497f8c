#include "cache_store/tiers/tiered_store.h"

#include <fmt/format.h>

#include <functional>

#include "cache_store/format/page.h"
#include "proto/base/bytes.h"
#include "proto/base/log.h"
#include "proto/base/status.h"

namespace lexico::store {
namespace {

// Pages of a session that are looked for: listing ten thousand sessions stays in the milliseconds.
constexpr size_t kTierSample = 64;

}  // namespace

absl::StatusOr<std::unique_ptr<TieredStore>> TieredStore::Open(const TieredStoreOptions& options,
                                                               base::Metrics* metrics) {
  std::unique_ptr<TieredStore> store(new TieredStore(options, metrics));
  const bool has_disk = !options.data_dir.empty();
  store->host_ = std::make_unique<HostTier>(options.host_bytes, /*last_tier=*/!has_disk);
  if (has_disk) {
    LEXICO_ASSIGN_OR_RETURN(store->disk_, DiskTier::Open({.dir = options.data_dir,
                                                          .bytes_max = options.disk_bytes,
                                                          .segment_bytes = options.segment_bytes,
                                                          .reserve_bytes = options.reserve_bytes,
                                                          .rebuild_index = options.rebuild_index,
                                                          .faults = options.faults},
                                                         options.clock->Now()));
    store->manifests_ = &store->disk_->manifests();
  } else {
    store->memory_manifests_ = std::make_unique<MemoryManifestTable>();
    store->manifests_ = store->memory_manifests_.get();
  }
  LEXICO_RETURN_IF_ERROR(WithIndexRemedy(store->LoadManifests(), options.data_dir + "/index"));
  store->UpdateMetrics();
  return store;
}

absl::Status TieredStore::LoadManifests() {
  absl::MutexLock lock(&claims_mutex_);
  LEXICO_RETURN_IF_ERROR(
      manifests_->ForEachTombstone([&](const std::string& session_id, const Tombstone& tombstone) {
        claims_mutex_.AssertHeld();
        tombstones_.Set(session_id, tombstone);
      }));
  LEXICO_RETURN_IF_ERROR(manifests_->DropTombstones(tombstones_.Expire(clock_->Now())));
  return manifests_->ForEach([&](const std::string& session_id, const ManifestRecord& record) {
    claims_mutex_.AssertHeld();
    const auto manifest = DecodeManifest(base::AsBytes(record.bytes));
    if (!manifest.ok()) {
      spdlog::error("manifest of session {} cannot be read: {}", session_id,
                    std::string(manifest.status().message()));
      claims_.Set(session_id, {.epoch = record.epoch, .update_time_us = record.update_time_us});
      return;
    }
    Carry(claims_.Set(session_id, SessionOf(*manifest, record.update_time_us)));
  });
}

Tier& TieredStore::last_tier() const {
  return disk_ != nullptr ? static_cast<Tier&>(*disk_) : static_cast<Tier&>(*host_);
}

absl::Mutex& TieredStore::SessionMutex(const std::string& session_id) const {
  return session_mutexes_[std::hash<std::string>()(session_id) % session_mutexes_.size()];
}

absl::Status TieredStore::Put(std::span<const NamedPage> pages) {
  const absl::Time start = clock_->Now();
  LEXICO_RETURN_IF_ERROR(last_tier().Put(pages, start));
  if (disk_ != nullptr) {
    // Only a cache of the disk: when it has no room, the disk serves.
    if (const absl::Status cached = host_->Put(pages, start); !cached.ok()) {
      spdlog::debug("{}", std::string(cached.message()));
    }
  }
  {
    // A manifest may have named a page before it arrived.
    absl::MutexLock lock(&claims_mutex_);
    for (const NamedPage& named : pages) {
      if (!claims_.IsClaimed(named.key)) continue;
      host_->SetClaimed(named.key, true, start);
      if (disk_ != nullptr) disk_->SetClaimed(named.key, true, start);
    }
  }
  double bytes = 0;
  for (const NamedPage& named : pages) bytes += static_cast<double>(named.page->size());
  const std::string tier(last_tier().name());
  metrics_->Counter("lexico_store_put_bytes_total", {tier}).Increment(bytes);
  metrics_->Histogram("lexico_store_put_seconds", {tier})
      .Observe(absl::ToDoubleSeconds(clock_->Now() - start));
  UpdateMetrics();
  return absl::OkStatus();
}

absl::StatusOr<PagePtr> TieredStore::GetOne(const PageKey& key, absl::Time now, bool* from_disk) {
  auto page = host_->Get(key, now);
  if (disk_ == nullptr) return page;
  if (page.ok()) {
    disk_->Touch(key, now);
    return page;
  }
  page = disk_->Get(key, now);
  if (!page.ok()) return page;
  *from_disk = true;
  const NamedPage named{key, *page};
  if (host_->Put({&named, 1}, now).ok()) {
    absl::MutexLock lock(&claims_mutex_);
    if (claims_.IsClaimed(key)) host_->SetClaimed(key, true, now);
  }
  return page;
}

std::vector<absl::StatusOr<PagePtr>> TieredStore::Get(std::span<const PageKey> keys) {
  const absl::Time start = clock_->Now();
  std::vector<absl::StatusOr<PagePtr>> pages;
  pages.reserve(keys.size());
  double bytes[2] = {0, 0};  // from host, from disk
  bool any_from_disk = false;
  for (const PageKey& key : keys) {
    bool from_disk = false;
    pages.push_back(GetOne(key, start, &from_disk));
    any_from_disk |= from_disk;
    if (pages.back().ok()) bytes[from_disk] += static_cast<double>((*pages.back())->size());
  }
  metrics_->Counter("lexico_store_get_bytes_total", {"host"}).Increment(bytes[0]);
  if (any_from_disk)
    metrics_->Counter("lexico_store_get_bytes_total", {"disk"}).Increment(bytes[1]);
  metrics_->Histogram("lexico_store_get_seconds", {any_from_disk ? "disk" : "host"})
      .Observe(absl::ToDoubleSeconds(clock_->Now() - start));
  UpdateMetrics();
  return pages;
}

std::vector<bool> TieredStore::Touch(std::span<const PageKey> keys) {
  const absl::Time now = clock_->Now();
  std::vector<bool> present;
  present.reserve(keys.size());
  for (const PageKey& key : keys) present.push_back(last_tier().Touch(key, now));
  return present;
}

absl::Status TieredStore::CheckEpoch(const std::string& session_id, uint64_t epoch) const {
  absl::MutexLock lock(&claims_mutex_);
  const Claims::Session* stored = claims_.Find(session_id);
  if (stored == nullptr || stored->epoch <= epoch) return absl::OkStatus();
  return absl::AbortedError(fmt::format(
      "session {} has a manifest of epoch {}, the caller's is {}: it has lost the session",
      session_id, stored->epoch, epoch));
}

absl::Status TieredStore::CheckNotDeleted(const Manifest& next) const {
  absl::MutexLock lock(&claims_mutex_);
  const Tombstone* stone = tombstones_.Refusing(next);
  if (stone == nullptr) return absl::OkStatus();
  return absl::NotFoundError(
      fmt::format("session {} (created at {} us, epoch {}) was deleted at {} us; drop it, nothing "
                  "of it is kept",
                  next.session_id, next.create_time_us, next.epoch, stone->delete_time_us));
}

absl::StatusOr<bool> TieredStore::Replaces(const Manifest& next) const {
  int64_t stored_birth = 0;
  uint64_t stored_epoch = 0;
  uint64_t stored_tokens = 0;
  {
    absl::MutexLock lock(&claims_mutex_);
    const Claims::Session* stored = claims_.Find(next.session_id);
    if (stored == nullptr) return true;
    stored_birth = stored->create_time_us;
    stored_epoch = stored->epoch;
    stored_tokens = stored->n_tokens;
  }
  // The births of a manifest that could not be read (0) and of the same session decide nothing.
  if (stored_birth == 0 || stored_birth == next.create_time_us) {
    LEXICO_RETURN_IF_ERROR(CheckEpoch(next.session_id, next.epoch));
    return next.epoch > stored_epoch || next.tokens.size() >= stored_tokens;
  }
  if (stored_birth < next.create_time_us) return true;
  return absl::AbortedError(fmt::format(
      "session {} has a manifest of a session created at {} us, the caller's was created at {} us: "
      "a later session has this id, or a clock went back; delete the one of the two that is stale",
      next.session_id, stored_birth, next.create_time_us));
}

absl::Status TieredStore::PutManifest(const std::string& session_id, uint64_t epoch,
                                      std::string bytes) {
  auto decoded = DecodeManifest(base::AsBytes(bytes));
  if (!decoded.ok()) return absl::InvalidArgumentError(std::string(decoded.status().message()));
  if (decoded->session_id != session_id || decoded->epoch != epoch) {
    return absl::InvalidArgumentError(
        fmt::format("the manifest is of session {} at epoch {}, the call names {} at {}",
                    decoded->session_id, decoded->epoch, session_id, epoch));
  }
  absl::MutexLock session_lock(&SessionMutex(session_id));
  LEXICO_RETURN_IF_ERROR(CheckNotDeleted(*decoded));
  LEXICO_ASSIGN_OR_RETURN(const bool replaces, Replaces(*decoded));
  if (!replaces) return absl::OkStatus();
  const int64_t now_us = absl::ToUnixMicros(clock_->Now());
  LEXICO_RETURN_IF_ERROR(manifests_->Put(session_id, {epoch, now_us, std::move(bytes)}));
  absl::MutexLock lock(&claims_mutex_);
  Carry(claims_.Set(session_id, SessionOf(*decoded, now_us)));
  return absl::OkStatus();
}

absl::StatusOr<ManifestRecord> TieredStore::GetManifest(const std::string& session_id) const {
  LEXICO_ASSIGN_OR_RETURN(ManifestRecord record, manifests_->Get(session_id));
  const auto decoded = DecodeManifest(base::AsBytes(record.bytes));
  if (!decoded.ok()) {
    return base::Annotate(decoded.status(), fmt::format("stored manifest of {}", session_id));
  }
  return record;
}

absl::Status TieredStore::DeleteManifest(const std::string& session_id, uint64_t epoch,
                                         int64_t create_time_us) {
  absl::MutexLock session_lock(&SessionMutex(session_id));
  int64_t stored_birth = 0;
  {
    absl::MutexLock lock(&claims_mutex_);
    const Claims::Session* stored = claims_.Find(session_id);
    if (stored != nullptr) stored_birth = stored->create_time_us;
  }
  const bool both_known = create_time_us != 0 && stored_birth != 0;
  if (both_known && stored_birth > create_time_us) return absl::OkStatus();
  // Epochs compare within one session only.
  if (!both_known || stored_birth == create_time_us) {
    LEXICO_RETURN_IF_ERROR(CheckEpoch(session_id, epoch));
  }
  const int64_t birth = create_time_us != 0 ? create_time_us : stored_birth;
  LEXICO_RETURN_IF_ERROR(
      WriteTombstone(session_id, {.create_time_us = birth, .epoch = birth == 0 ? epoch : 0}));
  absl::MutexLock lock(&claims_mutex_);
  Carry(claims_.Remove(session_id));
  return absl::OkStatus();
}

absl::Status TieredStore::WriteTombstone(const std::string& session_id, Tombstone tombstone) {
  const absl::Time now = clock_->Now();
  tombstone.delete_time_us = absl::ToUnixMicros(now);
  {
    absl::MutexLock lock(&claims_mutex_);
    tombstone = tombstones_.Joined(session_id, tombstone);
  }
  LEXICO_RETURN_IF_ERROR(manifests_->Delete(session_id, tombstone));
  std::vector<std::string> expired;
  {
    absl::MutexLock lock(&claims_mutex_);
    tombstones_.Set(session_id, tombstone);
    expired = tombstones_.Expire(now);
  }
  return manifests_->DropTombstones(expired);
}

void TieredStore::Carry(const ClaimChange& change) {
  const absl::Time now = clock_->Now();
  for (const auto& [keys, claimed] :
       {std::pair(&change.claimed, true), std::pair(&change.released, false)}) {
    for (const PageKey& key : *keys) {
      host_->SetClaimed(key, claimed, now);
      if (disk_ != nullptr) disk_->SetClaimed(key, claimed, now);
    }
  }
}

std::vector<ManifestSummary> TieredStore::ListManifests(const std::string& start_after,
                                                        size_t n_max) const {
  absl::MutexLock lock(&claims_mutex_);
  std::vector<ManifestSummary> summaries;
  const auto& sessions = claims_.sessions();
  for (auto it = sessions.upper_bound(start_after);
       it != sessions.end() && summaries.size() < n_max; ++it) {
    const Claims::Session& session = it->second;
    summaries.push_back(
        {.session_id = it->first,
         .tenant = session.tenant,
         .epoch = session.epoch,
         .create_time_us = session.create_time_us,
         .n_tokens = session.n_tokens,
         .n_pages = session.keys.size(),
         .update_time_us = session.update_time_us,
         .in_host_memory = disk_ == nullptr || host_->HasSample(session.keys, kTierSample)});
  }
  return summaries;
}

absl::StatusOr<ScrubStep> TieredStore::Scrub(ScrubCursor* cursor, uint64_t bytes_max) {
  if (disk_ == nullptr) {
    return absl::FailedPreconditionError(
        "the store has no disk (--data_dir); pages in memory are verified by those who read them");
  }
  LEXICO_ASSIGN_OR_RETURN(ScrubStep step, disk_->Scrub(cursor, bytes_max));
  for (const PageKey& key : step.damaged) step.n_repaired += Repair(key) ? 1 : 0;
  metrics_->Counter("lexico_store_scrubbed_bytes_total").Increment(static_cast<double>(step.bytes));
  metrics_->Counter("lexico_store_scrub_repaired_total")
      .Increment(static_cast<double>(step.n_repaired));
  if (step.pass_ended) {
    const absl::Time now = clock_->Now();
    scrub_time_us_ = absl::ToUnixMicros(now);
    metrics_->Gauge("lexico_store_scrub_timestamp_seconds")
        .Set(absl::ToDoubleSeconds(now - absl::UnixEpoch()));
  }
  UpdateMetrics();
  return step;
}

bool TieredStore::Repair(const PageKey& key) {
  const auto page = host_->Get(key, clock_->Now());
  const ExpectedPage expected{.key = key};
  if (!page.ok() || !DecodePage((*page)->bytes(), &expected).ok()) return false;
  const NamedPage named{key, *page};
  if (const absl::Status put = Put({&named, 1}); !put.ok()) {
    spdlog::warn("scrub: {}", std::string(put.message()));
    return false;
  }
  spdlog::info("scrub: page {} is on the disk again, from memory", key.ToHex());
  return true;
}

StoreUsage TieredStore::usage() const {
  StoreUsage usage{.scrub_time_us = scrub_time_us_};
  usage.tiers.push_back({host_->name(), host_->usage()});
  if (disk_ != nullptr) usage.tiers.push_back({disk_->name(), disk_->usage()});
  for (const auto& tier : usage.tiers) usage.n_checksum_failures += tier.usage.n_checksum_failures;
  absl::MutexLock lock(&claims_mutex_);
  usage.n_manifests = claims_.sessions().size();
  return usage;
}

void TieredStore::UpdateMetrics() {
  const StoreUsage now = usage();
  absl::MutexLock lock(&metrics_mutex_);
  exported_.resize(now.tiers.size());
  for (size_t i = 0; i < now.tiers.size(); ++i) {
    const std::string name(now.tiers[i].name);
    const TierUsage& tier = now.tiers[i].usage;
    TierUsage& before = exported_[i];
    // Two threads may arrive here in the other order than they looked: counters only go up.
    const auto grow = [&](const char* counter, uint64_t value, uint64_t* exported) {
      if (value <= *exported) return;
      metrics_->Counter(counter, {name}).Increment(static_cast<double>(value - *exported));
      *exported = value;
    };
    metrics_->Gauge("lexico_store_bytes", {name}).Set(static_cast<double>(tier.bytes));
    metrics_->Gauge("lexico_store_pages", {name}).Set(static_cast<double>(tier.n_pages));
    grow("lexico_store_evictions_total", tier.n_evictions, &before.n_evictions);
    grow("lexico_store_checksum_failures_total", tier.n_checksum_failures,
         &before.n_checksum_failures);
  }
}

}  // namespace lexico::store

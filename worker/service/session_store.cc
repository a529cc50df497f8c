#include "worker/service/session_store.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <future>

#include "absl/time/clock.h"
#include "cache_store/format/manifest.h"
#include "proto/base/bytes.h"
#include "proto/base/status.h"
#include "proto/rpc/status_map.h"
#include "worker/engine/errors.h"
#include "worker/service/service_context.h"

namespace lexico::worker {
namespace {

// A client waits for its token log at most this long; a slower store gets it behind the answer.
constexpr absl::Duration kCommitTimeout = absl::Seconds(2);
constexpr absl::Duration kSyncTimeout = absl::Seconds(30);
// Longer than a coordinator needs to notice a lost stream and restore the session elsewhere.
constexpr absl::Duration kCancelledCommitDelay = absl::Seconds(5);
// Keys of one HasPages call: 1 MiB.
constexpr size_t kHasBatch = 65536;

// A call of the store's verifies its pages when it has received them: several share the connection,
// so that pages are received meanwhile.
constexpr size_t kPartsMax = 4;
constexpr size_t kPartBytesMin = size_t{1} << 20;

bool IsOutOfReach(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

// A store that is down is not a worker that is down: the reason word makes the difference.
absl::Status StoreError(const absl::Status& status) {
  if (!IsOutOfReach(status)) return status;
  return rpc::WithDetail(
      absl::UnavailableError(
          fmt::format("the cache store {}: {}",
                      absl::IsUnavailable(status) ? "cannot be reached" : "does not answer in time",
                      std::string(status.message()))),
      "store_unavailable", absl::Seconds(1));
}

absl::Status Busy() {
  return rpc::WithDetail(absl::FailedPreconditionError("a call uses the session"),
                         kReasonSessionBusy);
}

// Names neither the other tenant nor its text: the answer may reach this session's client.
absl::Status CheckIdentity(const SessionIdentity& identity, const store::Manifest& manifest) {
  const absl::Time stored = absl::FromUnixMicros(manifest.create_time_us);
  if (identity.Is(manifest.tenant, stored)) return absl::OkStatus();
  spdlog::warn(
      "session {} of tenant '{}', created {}, is not restored: the store has the manifest of an "
      "earlier session of that id, of tenant '{}', created {}, epoch {}, {} tokens",
      identity.session_id, identity.tenant,
      absl::FormatTime(identity.create_time.value_or(stored), absl::UTCTimeZone()), manifest.tenant,
      absl::FormatTime(stored, absl::UTCTimeZone()), manifest.epoch, manifest.tokens.size());
  return absl::NotFoundError(
      fmt::format("the store has only another session of the id {}", identity.session_id));
}

// Receives the pages and windows that the store has; returns how many came damaged. Unavailable or
// DeadlineExceeded: the store went away or hangs, and what is missing may be there all the same.
class Fetch {
 public:
  Fetch(store::Client* client, SessionImport* import, const store::Manifest* manifest,
        absl::Time deadline)
      : client_(client), import_(import), manifest_(manifest), deadline_(deadline) {}

  absl::StatusOr<int64_t> Run() {
    for (auto range = import_->NextPages(); !range.empty(); range = import_->NextPages()) {
      std::vector<store::PageIn> pages;
      for (int64_t i = range.begin; i < range.end; ++i) {
        pages.push_back(PageIn(import_->page_key(i), import_->page_buffer(i)));
      }
      LEXICO_RETURN_IF_ERROR(Get(pages, [&](size_t i, const store::PageHeader& header) {
        return import_->AcceptPage(range.begin + static_cast<int64_t>(i), header);
      }));
    }
    std::vector<store::PageIn> windows;
    for (int layer = 0; layer < import_->n_windows(); ++layer) {
      windows.push_back(PageIn(import_->window_key(layer), import_->window_buffer(layer)));
    }
    if (windows.empty()) return n_damaged_;
    LEXICO_RETURN_IF_ERROR(Get(windows, [&](size_t i, const store::PageHeader& header) {
      return import_->AcceptWindow(static_cast<int>(i), header);
    }));
    return n_damaged_;
  }

 private:
  store::PageIn PageIn(const store::PageKey& key, std::span<uint8_t> payload) const {
    store::PageIn page{.payload = payload};
    page.expected.key = key;
    page.expected.model = manifest_->model;
    return page;
  }

  template <typename Accept>
  absl::Status Get(std::span<store::PageIn> pages, Accept accept) {
    const absl::Status fetched = GetInParts(pages);
    if (IsOutOfReach(fetched)) return fetched;
    if (!fetched.ok()) {
      spdlog::warn("session {}: pages not fetched: {}", manifest_->session_id,
                   std::string(fetched.message()));
    }
    for (size_t i = 0; i < pages.size(); ++i) {
      absl::Status status = pages[i].status;
      if (status.ok()) status = accept(i, pages[i].header);
      if (!absl::IsDataLoss(status) && !absl::IsFailedPrecondition(status)) continue;
      ++n_damaged_;
      spdlog::warn("session {}: page {} is not used: {}", manifest_->session_id,
                   pages[i].expected.key.ToHex(), std::string(status.message()));
    }
    return absl::OkStatus();
  }

  absl::Status GetInParts(std::span<store::PageIn> pages) {
    const size_t bytes = pages.size() * pages[0].payload.size();
    const size_t n_parts = std::clamp<size_t>(bytes / kPartBytesMin, 1, kPartsMax);
    const size_t n = (pages.size() + n_parts - 1) / n_parts;
    std::vector<std::future<absl::Status>> others;
    for (size_t i = n; i < pages.size(); i += n) {
      others.push_back(std::async(std::launch::async, [=, this] {
        return client_->GetPages(pages.subspan(i, std::min(n, pages.size() - i)), deadline_);
      }));
    }
    absl::Status fetched = client_->GetPages(pages.first(std::min(n, pages.size())), deadline_);
    for (std::future<absl::Status>& other : others) {
      const absl::Status status = other.get();
      if (fetched.ok() || IsOutOfReach(status)) fetched = status;
    }
    return fetched;
  }

  store::Client* const client_;
  SessionImport* const import_;
  const store::Manifest* const manifest_;
  const absl::Time deadline_;
  int64_t n_damaged_ = 0;
};

}  // namespace

SessionStore::SessionStore(store::Client* client, PageWriter* writer, Engine* engine,
                           SessionTable* table, std::string model_name, base::Metrics* metrics)
    : client_(client),
      writer_(writer),
      engine_(engine),
      table_(table),
      model_name_(std::move(model_name)),
      metrics_(metrics) {
  writer_->Start([this](const std::string& session_id) { return Sync(session_id); });
}

SessionStore::~SessionStore() { writer_->Stop(); }

void SessionStore::Note(const absl::Status& status) {
  const bool reachable = !IsOutOfReach(status);
  if (absl::IsDeadlineExceeded(status)) is_hung_ = true;
  if (reachable) is_hung_ = false;
  if (is_reachable_.exchange(reachable) == reachable) return;
  if (reachable) {
    spdlog::info("the cache store answers again");
  } else {
    spdlog::warn("the cache store cannot be reached; answers go on, new tokens are not durable: {}",
                 std::string(status.message()));
  }
}

absl::Status SessionStore::PutManifest(const SessionRecord& record, store::Manifest manifest,
                                       absl::Time deadline) {
  manifest.session_id = record.session_id;
  manifest.parent_session_id = record.parent_session_id;
  manifest.model_name = model_name_;
  manifest.epoch = record.epoch;
  manifest.create_time_us = absl::ToUnixMicros(record.create_time);
  manifest.text_format = static_cast<uint8_t>(record.conversation.format());
  manifest.conversation = record.conversation.Serialize();
  LEXICO_ASSIGN_OR_RETURN(const std::string bytes, store::EncodeManifest(manifest));
  const absl::Status status =
      client_->PutManifest(record.session_id, record.epoch, bytes, deadline);
  Note(status);
  if (!status.ok()) return status;
  table_->SetDurable(record.session_id, record.epoch, static_cast<int64_t>(manifest.tokens.size()));
  return absl::OkStatus();
}

absl::Status SessionStore::Commit(const SessionRecord& record) {
  if (is_hung_) {
    writer_->SyncLater(record.session_id, absl::Now());
    return absl::OkStatus();
  }
  absl::StatusOr<SessionSnapshot> snapshot =
      engine_->Export(record.session_id, /*with_window=*/false);
  if (!snapshot.ok()) return snapshot.status();
  const absl::Status status =
      PutManifest(record, std::move(snapshot->manifest), absl::Now() + kCommitTimeout);
  if (status.ok() || absl::IsAborted(status)) return status;
  spdlog::debug("session {}: token log not stored yet: {}", record.session_id,
                std::string(status.message()));
  writer_->SyncLater(record.session_id, absl::Now());
  return absl::OkStatus();
}

absl::Status SessionStore::CommitNow(SessionRecord* record, absl::Time deadline) {
  LEXICO_ASSIGN_OR_RETURN(SessionSnapshot snapshot,
                          engine_->Export(record->session_id, /*with_window=*/false));
  const auto n_tokens = static_cast<int64_t>(snapshot.manifest.tokens.size());
  LEXICO_RETURN_IF_ERROR(StoreError(PutManifest(*record, std::move(snapshot.manifest), deadline)));
  record->n_durable_tokens = n_tokens;
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> SessionStore::StoredEpoch(const SessionIdentity& identity,
                                                   absl::Time deadline) {
  const auto stored = client_->GetManifest(identity.session_id, deadline);
  Note(stored.status());
  if (absl::IsNotFound(stored.status())) return 0;
  if (!stored.ok()) return StoreError(stored.status());
  LEXICO_ASSIGN_OR_RETURN(const store::Manifest manifest,
                          store::DecodeManifest(base::AsBytes(stored->bytes)));
  const absl::Time create_time = absl::FromUnixMicros(manifest.create_time_us);
  return identity.Is(manifest.tenant, create_time) ? stored->epoch : 0;
}

void SessionStore::CommitLater(const std::string& session_id) {
  writer_->SyncLater(session_id, absl::Now() + kCancelledCommitDelay);
}

absl::Status SessionStore::PutMissing(const SessionSnapshot& snapshot, absl::Time deadline) {
  for (size_t begin = 0; begin < snapshot.pages.size(); begin += kHasBatch) {
    const size_t end = std::min(snapshot.pages.size(), begin + kHasBatch);
    std::vector<store::PageKey> keys;
    for (size_t i = begin; i < end; ++i) keys.push_back(snapshot.pages[i].header.key);
    LEXICO_ASSIGN_OR_RETURN(const std::vector<bool> has, client_->HasPages(keys, deadline));
    std::vector<const PageExport*> missing;
    for (size_t i = begin; i < end; ++i) {
      if (!has[i - begin]) missing.push_back(&snapshot.pages[i]);
    }
    LEXICO_RETURN_IF_ERROR(PutPages(*client_, missing, deadline));
  }
  return absl::OkStatus();
}

absl::Status SessionStore::PutWindows(const SessionSnapshot& snapshot, absl::Time deadline) {
  std::vector<store::PageOut> out;
  for (const WindowExport& window : snapshot.windows) {
    out.push_back({store::EncodeHeader(window.header, window.payload), window.payload});
  }
  return out.empty() ? absl::OkStatus() : client_->PutPages(out, deadline);
}

absl::Status SessionStore::Offload(const SessionRecord& record, absl::Time deadline) {
  const absl::Time begin = absl::Now();
  LEXICO_ASSIGN_OR_RETURN(SessionSnapshot snapshot,
                          engine_->Export(record.session_id, /*with_window=*/true));
  absl::Status status = PutMissing(snapshot, deadline);
  if (status.ok()) status = PutWindows(snapshot, deadline);
  if (status.ok()) status = PutManifest(record, std::move(snapshot.manifest), deadline);
  Note(status);
  if (!status.ok()) {
    return base::Annotate(StoreError(status),
                          fmt::format("session {} stays on this worker", record.session_id));
  }
  metrics_->Histogram("lexico_offload_seconds").Observe(absl::ToDoubleSeconds(absl::Now() - begin));
  return status;
}

absl::Status SessionStore::Sync(const std::string& session_id) {
  // Without taking the session, which would refuse its client: the record and the log belong
  // together when nobody used the session before, during and after the export.
  if (table_->IsInUse(session_id)) return Busy();
  LEXICO_ASSIGN_OR_RETURN(const SessionRecord record, table_->Find(session_id));
  absl::StatusOr<SessionSnapshot> snapshot = engine_->Export(session_id, false);
  if (!snapshot.ok()) return FromEngine(snapshot.status());
  LEXICO_RETURN_IF_ERROR(CheckUnused(record));
  const absl::Time deadline = absl::Now() + kSyncTimeout;
  absl::Status status = PutMissing(*snapshot, deadline);
  if (status.ok()) {
    // A call that ended during the upload has committed a newer state.
    LEXICO_RETURN_IF_ERROR(CheckUnused(record));
    status = PutManifest(record, std::move(snapshot->manifest), deadline);
  }
  Note(status);
  LEXICO_RETURN_IF_ERROR(status);
  // One that ended just now may have been overwritten: the store tells by the tokens, and a turn
  // can change without any. Once more, then.
  return CheckUnused(record);
}

absl::Status SessionStore::CheckUnused(const SessionRecord& record) {
  LEXICO_ASSIGN_OR_RETURN(const SessionRecord now, table_->Get(record.session_id, record.epoch));
  const bool is_unused =
      !table_->IsInUse(record.session_id) && now.last_use_time == record.last_use_time;
  return is_unused ? absl::OkStatus() : Busy();
}

absl::StatusOr<SessionStore::Restored> SessionStore::Restore(const SessionIdentity& identity,
                                                             uint64_t epoch, absl::Time deadline) {
  const absl::Time begin = absl::Now();
  const std::string& session_id = identity.session_id;
  const absl::StatusOr<store::StoredManifest> stored = client_->GetManifest(session_id, deadline);
  Note(stored.status());
  if (!stored.ok()) return StoreError(stored.status());
  LEXICO_ASSIGN_OR_RETURN(const store::Manifest manifest,
                          store::DecodeManifest(base::AsBytes(stored->bytes)));
  LEXICO_RETURN_IF_ERROR(CheckIdentity(identity, manifest));
  if (stored->epoch > epoch) {
    return rpc::WithDetail(
        absl::AbortedError(fmt::format("session {} is stored at epoch {}, the call names {}",
                                       session_id, stored->epoch, epoch)),
        "epoch_stale");
  }
  Restored restored;
  LEXICO_ASSIGN_OR_RETURN(restored.record.conversation, Conversation::Parse(manifest.conversation));
  restored.record.session_id = session_id;
  restored.record.epoch = epoch;
  restored.record.tenant = manifest.tenant;
  restored.record.profile = manifest.profile;
  restored.record.parent_session_id = manifest.parent_session_id;
  restored.record.create_time = absl::FromUnixMicros(manifest.create_time_us);
  restored.record.last_use_time = absl::Now();
  restored.record.n_durable_tokens = static_cast<int64_t>(manifest.tokens.size());

  LEXICO_ASSIGN_OR_RETURN(std::unique_ptr<SessionImport> import, engine_->BeginImport(manifest));
  const absl::StatusOr<int64_t> n_damaged = Fetch(client_, import.get(), &manifest, deadline).Run();
  Note(n_damaged.status());
  if (!n_damaged.ok()) return StoreError(n_damaged.status());
  LEXICO_ASSIGN_OR_RETURN(const SessionInfo info,
                          engine_->FinishImport(session_id, std::move(import)));
  restored.n_lost_tokens = info.n_pending_tokens;
  spdlog::info("session {} restored: {} tokens, {} of them to be prefilled again, {} damaged pages",
               session_id, info.n_tokens, info.n_pending_tokens, *n_damaged);
  metrics_->Histogram("lexico_restore_seconds").Observe(absl::ToDoubleSeconds(absl::Now() - begin));
  return restored;
}

absl::Status SessionStore::DeleteStored(const std::string& session_id, uint64_t epoch,
                                        absl::Time deadline) {
  const absl::Status status = client_->DeleteManifest(session_id, epoch, deadline);
  Note(status);
  return StoreError(status);
}

}  // namespace lexico::worker

// A store in memory behind the interface of the real one: it verifies what it is given, can be
// taken down, be full, and lose or damage pages.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "cache_store/client/client.h"
#include "cache_store/format/manifest.h"
#include "proto/base/bytes.h"

namespace lexico::tests {

// Thread safety: all methods may be called from any thread.
class FakeStoreClient : public store::Client {
 public:
  // What every call fails with until it is OK again.
  void Fail(absl::Status status) {
    absl::MutexLock lock(&mutex_);
    failure_ = std::move(status);
  }
  int64_t n_pages() const {
    absl::MutexLock lock(&mutex_);
    return static_cast<int64_t>(pages_.size());
  }
  store::Manifest ManifestOf(const std::string& session_id) const {
    absl::MutexLock lock(&mutex_);
    const auto it = manifests_.find(session_id);
    if (it == manifests_.end()) return {};
    return *store::DecodeManifest(base::AsBytes(it->second.bytes));
  }
  bool HasManifest(const std::string& session_id) const {
    absl::MutexLock lock(&mutex_);
    return manifests_.contains(session_id);
  }
  // Manifests that came after a longer one of the same owner.
  int n_overtaken() const {
    absl::MutexLock lock(&mutex_);
    return n_overtaken_;
  }
  // A batch with a page of which `why` says something else than OK is refused with that.
  void Refuse(std::function<absl::Status(const store::PageHeader&)> why) {
    absl::MutexLock lock(&mutex_);
    refuse_ = std::move(why);
  }
  // PutManifest calls that an answer waits for, known by their short deadline.
  int n_commits() const {
    absl::MutexLock lock(&mutex_);
    return n_commits_;
  }
  // Runs `meanwhile` in the middle of the next call of that kind: HasPages or GetPages.
  void InNextHasPages(std::function<void()> meanwhile) {
    absl::MutexLock lock(&mutex_);
    in_has_pages_ = std::move(meanwhile);
  }
  void InNextGetPages(std::function<void()> meanwhile) {
    absl::MutexLock lock(&mutex_);
    in_get_pages_ = std::move(meanwhile);
  }
  // Loses every page of which `lose` says so.
  template <typename F>
  void LosePages(F lose) {
    absl::MutexLock lock(&mutex_);
    std::erase_if(pages_, [&](const auto& entry) {
      return lose(*store::DecodeHeader(base::AsBytes(entry.second)));
    });
  }

  absl::Status PutPages(std::span<const store::PageOut> pages, absl::Time) override {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    for (const store::PageOut& page : pages) {
      const absl::Status refused =
          refuse_ ? refuse_(*store::DecodeHeader(page.header)) : absl::OkStatus();
      if (!refused.ok()) return refused;
    }
    for (const store::PageOut& page : pages) {
      std::string bytes(page.header.begin(), page.header.end());
      bytes.append(reinterpret_cast<const char*>(page.payload.data()), page.payload.size());
      const auto view = store::DecodePage(base::AsBytes(bytes));
      if (!view.ok()) return view.status();
      pages_[view->header.key] = std::move(bytes);
    }
    return absl::OkStatus();
  }
  absl::Status GetPages(std::span<store::PageIn> pages, absl::Time) override {
    RunOnce(&in_get_pages_);
    absl::MutexLock lock(&mutex_);
    for (store::PageIn& page : pages) {
      page.status = failure_;
      if (!failure_.ok()) continue;
      const auto it = pages_.find(page.expected.key);
      if (it == pages_.end()) {
        page.status = absl::NotFoundError("no such page");
        continue;
      }
      const auto view = store::DecodePage(base::AsBytes(it->second), &page.expected);
      page.status = view.status();
      if (!view.ok()) continue;
      page.header = view->header;
      std::copy(view->payload.begin(), view->payload.end(), page.payload.begin());
    }
    return failure_;
  }
  absl::StatusOr<std::vector<bool>> HasPages(std::span<const store::PageKey> keys,
                                             absl::Time) override {
    RunOnce(&in_has_pages_);
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    std::vector<bool> has;
    for (const store::PageKey& key : keys) has.push_back(pages_.contains(key));
    return has;
  }
  absl::Status PutManifest(std::string_view session_id, uint64_t epoch, std::string_view manifest,
                           absl::Time deadline) override {
    absl::MutexLock lock(&mutex_);
    if (deadline < absl::Now() + absl::Seconds(5)) ++n_commits_;
    if (!failure_.ok()) return failure_;
    const auto next = store::DecodeManifest(base::AsBytes(manifest));
    if (!next.ok()) return absl::InvalidArgumentError(next.status().message());
    store::StoredManifest& stored = manifests_[std::string(session_id)];
    if (!stored.bytes.empty()) {
      const auto held = *store::DecodeManifest(base::AsBytes(stored.bytes));
      const bool is_later = next->create_time_us > held.create_time_us;
      const bool is_earlier = next->create_time_us < held.create_time_us;
      if (is_earlier || (!is_later && held.epoch > epoch)) {
        return absl::AbortedError("epoch_stale");
      }
      if (!is_later && held.epoch == epoch && next->tokens.size() < held.tokens.size()) {
        ++n_overtaken_;
        return absl::OkStatus();
      }
    }
    stored = {.bytes = std::string(manifest), .epoch = epoch};
    return absl::OkStatus();
  }
  absl::StatusOr<store::StoredManifest> GetManifest(std::string_view session_id,
                                                    absl::Time) override {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    const auto it = manifests_.find(std::string(session_id));
    if (it == manifests_.end()) return absl::NotFoundError("no manifest");
    return it->second;
  }
  absl::Status DeleteManifest(std::string_view session_id, uint64_t epoch, absl::Time) override {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    const auto it = manifests_.find(std::string(session_id));
    if (it != manifests_.end() && it->second.epoch > epoch) return absl::AbortedError("stale");
    manifests_.erase(std::string(session_id));
    return absl::OkStatus();
  }
  absl::StatusOr<store::StoreInfo> GetStatus(absl::Time) override { return store::StoreInfo{}; }

 private:
  void RunOnce(std::function<void()>* meanwhile) {
    std::function<void()> run;
    {
      absl::MutexLock lock(&mutex_);
      if (failure_.ok()) std::swap(run, *meanwhile);
    }
    if (run) run();
  }

  mutable absl::Mutex mutex_;
  std::function<void()> in_has_pages_;
  std::function<void()> in_get_pages_;
  std::function<absl::Status(const store::PageHeader&)> refuse_ ABSL_GUARDED_BY(mutex_);
  int n_commits_ ABSL_GUARDED_BY(mutex_) = 0;
  int n_overtaken_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::map<store::PageKey, std::string> pages_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, store::StoredManifest> manifests_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lexico::tests

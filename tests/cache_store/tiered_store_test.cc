// The tiered store: claims, epochs, promotion; and random operations against plain maps.
#include "cache_store/tiers/tiered_store.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "tests/cache_store/page_factory.h"

namespace lexico::store {
namespace {

class TieredStoreTest : public testing::TestWithParam<bool> {
 protected:
  TieredStoreTest() {
    options_.clock = &clock_;
    options_.host_bytes = 1u << 20;
    options_.disk_bytes = 4u << 20;
    options_.segment_bytes = 64u << 10;
    options_.reserve_bytes = 0;
    if (GetParam()) options_.data_dir = dir_.path() + "/data";
  }
  bool has_disk() const { return GetParam(); }

  void Open() {
    store_.reset();
    auto store = TieredStore::Open(options_, &metrics_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  absl::Status Put(std::vector<uint64_t> numbers) {
    std::vector<NamedPage> pages;
    for (const uint64_t n : numbers) pages.push_back(MakeNamedPage(n));
    return store_->Put(pages);
  }
  bool Has(uint64_t n) {
    const PageKey key = KeyOf(n);
    const auto pages = store_->Get({&key, 1});
    return pages[0].ok() &&
           std::ranges::equal((*pages[0])->bytes(), MakeNamedPage(n).page->bytes());
  }
  absl::Status PutManifest(const std::string& id, uint64_t epoch, std::vector<uint64_t> pages) {
    return store_->PutManifest(id, epoch, MakeManifestBytes(id, epoch, pages));
  }
  absl::Status PutBorn(const std::string& id, uint64_t epoch, int64_t create_time_us) {
    Manifest manifest = MakeManifest(id, epoch, {1});
    manifest.create_time_us = create_time_us;
    return store_->PutManifest(id, epoch, *EncodeManifest(manifest));
  }
  absl::Status Delete(const std::string& id, uint64_t epoch, int64_t create_time_us = 0) {
    return store_->DeleteManifest(id, epoch, create_time_us);
  }

  TempDir dir_;
  base::FakeClock clock_;
  base::Metrics metrics_{"store"};
  TieredStoreOptions options_;
  std::unique_ptr<TieredStore> store_;
};

TEST_P(TieredStoreTest, KeepsManifestsWithTheirEpoch) {
  Open();
  EXPECT_TRUE(absl::IsNotFound(store_->GetManifest("a").status()));
  ASSERT_TRUE(PutManifest("a", 3, {1}).ok());
  const auto record = store_->GetManifest("a");
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->epoch, 3u);
  EXPECT_EQ(record->bytes, MakeManifestBytes("a", 3, {1}));
}

TEST_P(TieredStoreTest, AStaleEpochIsAbortedAndChangesNothing) {
  Open();
  ASSERT_TRUE(PutManifest("a", 3, {1}).ok());
  EXPECT_TRUE(absl::IsAborted(PutManifest("a", 2, {2})));
  EXPECT_TRUE(absl::IsAborted(Delete("a", 2)));
  EXPECT_EQ(store_->GetManifest("a")->epoch, 3u);
  ASSERT_TRUE(PutManifest("a", 3, {1, 2}).ok());
  ASSERT_TRUE(PutManifest("a", 4, {1}).ok());
  ASSERT_TRUE(Delete("a", 4).ok());
  ASSERT_TRUE(Delete("a", 4).ok());
  EXPECT_TRUE(absl::IsNotFound(store_->GetManifest("a").status()));
}

TEST_P(TieredStoreTest, ALaterSessionOfTheSameIdReplacesTheEarlierWhateverTheEpochs) {
  Open();
  ASSERT_TRUE(PutBorn("a", 7, 1000).ok());
  ASSERT_TRUE(PutBorn("a", 1, 2000).ok());  // its coordinator had lost the journal
  EXPECT_EQ(store_->GetManifest("a")->epoch, 1u);
  if (has_disk()) Open();
  const absl::Status former_owner = PutBorn("a", 8, 1000);
  EXPECT_TRUE(absl::IsAborted(former_owner)) << former_owner;
  EXPECT_NE(former_owner.message().find("created at 2000 us"), std::string::npos) << former_owner;
  EXPECT_EQ(store_->GetManifest("a")->epoch, 1u);
  ASSERT_TRUE(PutBorn("a", 2, 2000).ok());
}

TEST_P(TieredStoreTest, ALateManifestOfADeletedSessionIsNotTakenAndALaterSessionIs) {
  Open();
  ASSERT_TRUE(PutBorn("a", 3, 1000).ok());
  ASSERT_TRUE(Delete("a", 3).ok());
  if (has_disk()) Open();  // it is remembered
  const absl::Status late = PutBorn("a", 9, 1000);
  EXPECT_TRUE(absl::IsNotFound(late)) << late;
  EXPECT_NE(late.message().find("was deleted"), std::string::npos) << late;
  EXPECT_TRUE(absl::IsNotFound(PutBorn("a", 9, 999)));
  EXPECT_EQ(store_->usage().n_manifests, 0u);
  EXPECT_TRUE(PutBorn("a", 1, 1001).ok());
}

TEST_P(TieredStoreTest, ASessionThatWasNeverStoredIsRememberedAsDeletedByEpochAndTime) {
  const int64_t now_us = absl::ToUnixMicros(clock_.Now());
  Open();
  ASSERT_TRUE(Delete("a", 3).ok());
  if (has_disk()) Open();
  EXPECT_TRUE(absl::IsNotFound(PutBorn("a", 3, now_us)));
  EXPECT_TRUE(PutBorn("a", 1, now_us + 1).ok()) << "born later, of a coordinator that began anew";
  ASSERT_TRUE(Delete("b", 3).ok());
  EXPECT_TRUE(PutBorn("b", 4, now_us).ok()) << "of a larger epoch: created after the deletion";
}

TEST_P(TieredStoreTest, ADeletionIsForgottenAfterItsTime) {
  const int64_t now_us = absl::ToUnixMicros(clock_.Now());
  Open();
  ASSERT_TRUE(PutBorn("a", 3, now_us).ok());
  ASSERT_TRUE(Delete("a", 3).ok());
  clock_.Advance(Tombstones::kKept - absl::Seconds(1));
  ASSERT_TRUE(Delete("other", 3).ok());
  EXPECT_TRUE(absl::IsNotFound(PutBorn("a", 3, now_us)));
  clock_.Advance(absl::Seconds(2));
  ASSERT_TRUE(Delete("other", 3).ok());
  if (has_disk()) Open();
  EXPECT_TRUE(PutBorn("a", 3, now_us).ok());
}

TEST_P(TieredStoreTest, ADeleteNamesTheSessionByItsBirthAndEpochsCompareWithinOneSession) {
  Open();
  ASSERT_TRUE(PutBorn("a", 7, 1000).ok());
  EXPECT_TRUE(absl::IsAborted(Delete("a", 6, 1000))) << "another owner has that session";
  ASSERT_TRUE(PutBorn("a", 2, 2000).ok());
  EXPECT_TRUE(Delete("a", 9, 1000).ok()) << "it was replaced";
  EXPECT_EQ(store_->GetManifest("a")->epoch, 2u) << "the later session keeps its manifest";
  ASSERT_TRUE(Delete("a", 1, 3000).ok()) << "what an earlier session left goes, whatever its epoch";
  EXPECT_TRUE(absl::IsNotFound(store_->GetManifest("a").status()));
  EXPECT_TRUE(absl::IsNotFound(PutBorn("a", 9, 2000)));
  EXPECT_TRUE(absl::IsNotFound(PutBorn("a", 9, 3000)));
}

TEST(TombstonesTest, TooManyCostTheOldest) {
  Tombstones stones(/*count_max=*/2);
  for (int64_t i = 1; i <= 3; ++i) {
    stones.Set(std::to_string(i), {.create_time_us = 50, .delete_time_us = 100 + i});
  }
  EXPECT_EQ(stones.Expire(absl::FromUnixMicros(200)), std::vector<std::string>{"1"});
  EXPECT_EQ(stones.size(), 2u);
  Manifest manifest = MakeManifest("1", 1, {});
  manifest.create_time_us = 50;
  EXPECT_EQ(stones.Refusing(manifest), nullptr);
  manifest.session_id = "2";
  ASSERT_NE(stones.Refusing(manifest), nullptr);
}

TEST_P(TieredStoreTest, AnOvertakenManifestOfTheSameOwnerIsIgnored) {
  Open();
  ASSERT_TRUE(PutManifest("a", 3, {1, 2}).ok());
  ASSERT_TRUE(PutManifest("a", 3, {1}).ok());
  EXPECT_EQ(store_->GetManifest("a")->bytes, MakeManifestBytes("a", 3, {1, 2}));
  if (has_disk()) Open();
  ASSERT_TRUE(PutManifest("a", 3, {1}).ok());
  EXPECT_EQ(store_->GetManifest("a")->bytes, MakeManifestBytes("a", 3, {1, 2}));
  ASSERT_TRUE(PutManifest("a", 3, {1, 3}).ok());  // as many: the newer one
  EXPECT_EQ(store_->GetManifest("a")->bytes, MakeManifestBytes("a", 3, {1, 3}));
  ASSERT_TRUE(PutManifest("a", 4, {1}).ok());  // another owner, from an earlier state
  EXPECT_EQ(store_->GetManifest("a")->bytes, MakeManifestBytes("a", 4, {1}));
}

TEST_P(TieredStoreTest, AManifestOfAnotherSessionOrEpochOrNoneIsInvalid) {
  Open();
  EXPECT_TRUE(absl::IsInvalidArgument(store_->PutManifest("a", 1, MakeManifestBytes("b", 1, {}))));
  EXPECT_TRUE(absl::IsInvalidArgument(store_->PutManifest("a", 1, MakeManifestBytes("a", 2, {}))));
  EXPECT_TRUE(absl::IsInvalidArgument(store_->PutManifest("a", 1, "nonsense")));
  EXPECT_EQ(store_->usage().n_manifests, 0u);
}

TEST_P(TieredStoreTest, ListsManifestsInPages) {
  Open();
  for (const char* id : {"d", "a", "c", "b"}) ASSERT_TRUE(PutManifest(id, 2, {1, 2}).ok());
  const auto first = store_->ListManifests("", 3);
  ASSERT_EQ(first.size(), 3u);
  EXPECT_EQ(first[0].session_id, "a");
  EXPECT_EQ(first[2].session_id, "c");
  EXPECT_EQ(first[0].n_tokens, 11u);
  EXPECT_EQ(first[0].n_pages, 2u);
  EXPECT_EQ(first[0].epoch, 2u);
  const auto second = store_->ListManifests("c", 3);
  ASSERT_EQ(second.size(), 1u);
  EXPECT_EQ(second[0].session_id, "d");
}

TEST_P(TieredStoreTest, AListedSessionIsInMemoryUntilTheStoreRestartsOrItsPagesAreEvicted) {
  Open();
  const auto in_memory = [&] { return store_->ListManifests("", 1)[0].in_host_memory; };
  ASSERT_TRUE(Put({1, 2, 3}).ok());
  ASSERT_TRUE(PutManifest("a", 1, {1, 2, 3}).ok());
  EXPECT_TRUE(in_memory());
  if (!has_disk()) return;
  Open();
  EXPECT_FALSE(in_memory());
  for (const uint64_t n : {1, 2, 3}) ASSERT_TRUE(Has(n));
  EXPECT_TRUE(in_memory()) << "reading brought it back";
  for (uint64_t n = 100; n < 6000; n += 100) {
    std::vector<uint64_t> numbers(100);
    std::iota(numbers.begin(), numbers.end(), n);
    ASSERT_TRUE(Put(numbers).ok());
    ASSERT_TRUE(PutManifest("later" + std::to_string(n), 1, numbers).ok());
    clock_.Advance(absl::Seconds(61));
  }
  EXPECT_FALSE(in_memory());
}

TEST_P(TieredStoreTest, APageNamedBeforeItArrivesIsProtectedFromItsArrival) {
  options_.host_bytes = 64u << 10;
  options_.disk_bytes = 64u << 10;
  options_.segment_bytes = 8u << 10;
  Open();
  ASSERT_TRUE(PutManifest("a", 1, {1}).ok());
  ASSERT_TRUE(Put({1}).ok());
  for (uint64_t n = 100; n < 600; ++n) {
    clock_.Advance(absl::Seconds(61));
    ASSERT_TRUE(Put({n}).ok()) << n;
  }
  EXPECT_TRUE(Has(1));
  EXPECT_FALSE(Has(100));
  ASSERT_TRUE(Delete("a", 1).ok());
  for (uint64_t n = 1100; n < 1600; ++n) {
    clock_.Advance(absl::Seconds(61));
    ASSERT_TRUE(Put({n}).ok()) << n;
  }
  EXPECT_FALSE(Has(1));
}

TEST_P(TieredStoreTest, CountsBytesAndPagesInItsMetrics) {
  Open();
  ASSERT_TRUE(Put({1, 2, 3}).ok());
  EXPECT_TRUE(Has(1));
  const std::string last = has_disk() ? "disk" : "host";
  EXPECT_EQ(metrics_.Counter("lexico_store_put_bytes_total", {last}).Value(), 3 * 248);
  EXPECT_EQ(metrics_.Counter("lexico_store_get_bytes_total", {"host"}).Value(), 248);
  EXPECT_EQ(metrics_.Gauge("lexico_store_pages", {last}).Value(), 3);
}

// One process's life after another; the model knows what must be there, what may be, and what must
// not. Claimed pages must be; unclaimed ones may; bytes that differ from what was put are never
// seen.
TEST_P(TieredStoreTest, RandomOperationsAgreeWithAModel) {
  for (unsigned seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 random(seed);
    store_.reset();  // an index that is open deletes files of its own
    if (has_disk()) std::filesystem::remove_all(options_.data_dir);
    options_.host_bytes = 100u << 10;
    options_.disk_bytes = 256u << 10;
    options_.segment_bytes = 16u << 10;
    Open();
    struct Stored {
      uint64_t epoch;
      size_t n_named;  // what its tokens follow from
      std::set<uint64_t> pages;
    };
    std::map<std::string, Stored> manifests;
    std::map<std::string, int64_t> births;  // a deleted id is given to a later session
    std::set<uint64_t> ever_put;
    for (int step = 0; step < 400; ++step) {
      const std::string id(1, static_cast<char>('a' + random() % 4));
      switch (random() % 10) {
        case 0:
        case 1:
        case 2:
        case 3: {
          std::vector<uint64_t> numbers;
          for (unsigned i = 0; i < 1 + random() % 20; ++i) numbers.push_back(random() % 1500);
          const absl::Status status = Put(numbers);
          if (status.ok()) {
            ever_put.insert(numbers.begin(), numbers.end());
            for (const uint64_t n : numbers) ASSERT_TRUE(Has(n)) << n;
          } else {
            ASSERT_TRUE(absl::IsResourceExhausted(status)) << status;
          }
          break;
        }
        case 4: {
          std::vector<uint64_t> numbers;
          std::set<uint64_t> kept;
          for (unsigned i = 0; i < random() % 30; ++i) {
            const uint64_t n = random() % 1500;
            if (Has(n)) numbers.push_back(n);
          }
          kept.insert(numbers.begin(), numbers.end());
          const uint64_t epoch = 1 + random() % 5;
          const auto it = manifests.find(id);
          const bool stale = it != manifests.end() && it->second.epoch > epoch;
          const bool overtaken = it != manifests.end() && it->second.epoch == epoch &&
                                 it->second.n_named > numbers.size();
          Manifest manifest = MakeManifest(id, epoch, numbers);
          manifest.create_time_us += births[id];
          ASSERT_EQ(store_->PutManifest(id, epoch, *EncodeManifest(manifest)).code(),
                    stale ? absl::StatusCode::kAborted : absl::StatusCode::kOk);
          if (!stale && !overtaken) manifests[id] = {epoch, numbers.size(), kept};
          break;
        }
        case 5:
          ASSERT_TRUE(Delete(id, 5).ok());
          if (manifests.erase(id) > 0) {
            ASSERT_TRUE(absl::IsNotFound(PutBorn(id, 6, 1)));
            ++births[id];
          }
          break;
        case 6:
          clock_.Advance(absl::Seconds(random() % 120));
          break;
        case 7:
          if (has_disk() && random() % 4 == 0) Open();
          break;
        default: {
          const uint64_t n = random() % 1500;
          const PageKey key = KeyOf(n);
          const bool touched = store_->Touch({&key, 1})[0];
          ASSERT_EQ(touched, Has(n)) << n;
          ASSERT_TRUE(!touched || ever_put.contains(n)) << n;
        }
      }
      for (const auto& [session, state] : manifests) {
        ASSERT_EQ(store_->GetManifest(session)->epoch, state.epoch);
        for (const uint64_t n : state.pages) ASSERT_TRUE(Has(n)) << session << " " << n;
      }
      ASSERT_EQ(store_->usage().n_manifests, manifests.size());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tiers, TieredStoreTest, testing::Values(false, true),
                         [](const auto& test) { return test.param ? "Disk" : "HostOnly"; });

}  // namespace
}  // namespace lexico::store

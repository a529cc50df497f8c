// Scrubbing: every page on the disk is looked at, damage is found before a reader finds it.
#include <gtest/gtest.h>

#include <thread>

#include "cache_store/tiers/scrubber.h"
#include "tests/cache_store/disk_tier_fixture.h"

namespace lexico::store {
namespace {

class DiskScrubTest : public DiskTierFixture {
 protected:
  // Steps of `bytes_max` until a pass ends.
  ScrubStep Pass(uint64_t bytes_max = 10'000) {
    ScrubStep sum;
    for (int i = 0; i < 10'000 && !sum.pass_ended; ++i) {
      auto step = tier_->Scrub(&cursor_, bytes_max);
      EXPECT_TRUE(step.ok()) << step.status();
      if (!step.ok()) break;
      EXPECT_LE(step->bytes, bytes_max + kRecordBytes);
      sum.n_pages += step->n_pages;
      sum.bytes += step->bytes;
      sum.damaged.insert(sum.damaged.end(), step->damaged.begin(), step->damaged.end());
      sum.pass_ended = step->pass_ended;
    }
    EXPECT_TRUE(sum.pass_ended);
    return sum;
  }

  ScrubCursor cursor_;
};

TEST_F(DiskScrubTest, APassReadsEveryPageOnce) {
  Open();
  EXPECT_EQ(Pass().n_pages, 0u) << "an empty store";
  for (uint64_t n = 0; n < 900; n += 100) ASSERT_TRUE(Put(n, n + 100).ok());
  ASSERT_GT(Segments().size(), 2u);
  for (const uint64_t bytes_max : {1u, 10'000u, 100'000'000u}) {
    const ScrubStep pass = Pass(bytes_max);
    EXPECT_EQ(pass.n_pages, 900u) << bytes_max;
    EXPECT_EQ(pass.bytes, 900u * 248) << bytes_max;
    EXPECT_TRUE(pass.damaged.empty()) << bytes_max;
  }
}

TEST_F(DiskScrubTest, DamageIsFoundWithoutAReaderAndDropped) {
  Open();
  for (uint64_t n = 0; n < 600; n += 100) ASSERT_TRUE(Put(n, n + 100).ok());
  Damage(Segments()[0], kSegmentHeaderBytes + 7 * kRecordBytes + 200);  // in a payload
  Damage(Segments()[1], kSegmentHeaderBytes + 3 * kRecordBytes + 20);   // in a header
  const ScrubStep pass = Pass();
  EXPECT_EQ(pass.n_pages, 600u);
  ASSERT_EQ(pass.damaged.size(), 2u);
  EXPECT_EQ(pass.damaged[0], KeyOf(7));
  EXPECT_EQ(tier_->usage().n_checksum_failures, 2u);
  EXPECT_FALSE(Has(7));
  EXPECT_TRUE(Has(8));
  EXPECT_EQ(Pass().n_pages, 598u);
  Open();  // the index knows
  EXPECT_FALSE(Has(7));
  EXPECT_TRUE(Has(8));
}

TEST_F(DiskScrubTest, SegmentsMayComeAndGoDuringAPass) {
  options_.bytes_max = 1u << 20;
  Open();
  ASSERT_TRUE(Put(0, 100).ok());
  ASSERT_TRUE(tier_->Scrub(&cursor_, 1000).ok());
  // Many times what the tier may hold: what the cursor stands at is evicted and reclaimed.
  for (uint64_t n = 100; n < 12'000; n += 100)
    ASSERT_TRUE(Put(n, n + 100, static_cast<int>(n)).ok());
  EXPECT_FALSE(Has(50));
  const ScrubStep pass = Pass();
  EXPECT_GT(pass.n_pages, 1000u);
  EXPECT_TRUE(pass.damaged.empty());
}

class StoreScrubTest : public DiskTierFixture {
 protected:
  void Open(uint64_t host_bytes) {
    store_.reset();
    TieredStoreOptions options{.host_bytes = host_bytes,
                               .data_dir = dir_.path() + "/data",
                               .segment_bytes = 64u << 10,
                               .reserve_bytes = 0};
    auto store = TieredStore::Open(options, &metrics_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  void PutPages(uint64_t n) {
    std::vector<NamedPage> pages;
    for (uint64_t i = 0; i < n; ++i) pages.push_back(MakeNamedPage(i));
    ASSERT_TRUE(store_->Put(pages).ok());
  }
  bool Gives(uint64_t n) {
    const PageKey key = KeyOf(n);
    return store_->Get({&key, 1})[0].ok();
  }

  base::Metrics metrics_{"store"};
  std::unique_ptr<TieredStore> store_;
};

TEST_F(StoreScrubTest, APageThatMemoryHasIsWrittenAgain) {
  Open(1u << 20);
  PutPages(10);
  ASSERT_TRUE(store_->PutManifest("s", 1, MakeManifestBytes("s", 1, {4})).ok());
  Damage(Segments()[0], kSegmentHeaderBytes + 4 * kRecordBytes + 200);
  ScrubCursor cursor;
  const auto step = store_->Scrub(&cursor, 1u << 20);
  ASSERT_TRUE(step.ok()) << step.status();
  EXPECT_EQ(step->damaged.size(), 1u);
  EXPECT_EQ(step->n_repaired, 1u);
  Open(1);  // without what memory has
  EXPECT_TRUE(Gives(4));
}

TEST_F(StoreScrubTest, APageThatNobodyHasIsDroppedAndThePassIsTold) {
  Open(1);
  PutPages(10);
  EXPECT_EQ(store_->usage().scrub_time_us, 0);
  Damage(Segments()[0], kSegmentHeaderBytes + 4 * kRecordBytes + 200);
  ScrubCursor cursor;
  const auto step = store_->Scrub(&cursor, 1u << 20);
  ASSERT_TRUE(step.ok()) << step.status();
  EXPECT_EQ(step->damaged.size(), 1u);
  EXPECT_EQ(step->n_repaired, 0u);
  EXPECT_FALSE(Gives(4));
  ASSERT_TRUE(store_->Scrub(&cursor, 1u << 20)->pass_ended);
  EXPECT_GT(store_->usage().scrub_time_us, 0);
  EXPECT_EQ(store_->usage().n_checksum_failures, 1u);
}

TEST_F(StoreScrubTest, WithoutADiskThereIsNothingToScrub) {
  auto store = TieredStore::Open({}, &metrics_);
  ASSERT_TRUE(store.ok());
  ScrubCursor cursor;
  const absl::Status status = (*store)->Scrub(&cursor, 1).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(status.message().find("--data_dir"), std::string::npos) << status;
}

TEST_F(StoreScrubTest, TheScrubberFindsDamageByItselfAndStopsAtOnce) {
  Open(1);
  PutPages(300);
  Damage(Segments()[0], kSegmentHeaderBytes + 4 * kRecordBytes + 200);
  {
    const Scrubber scrubber(store_.get(), {.bytes_per_s = 1u << 20});
    for (int i = 0; i < 1000 && store_->usage().scrub_time_us == 0; ++i) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    EXPECT_EQ(store_->usage().n_checksum_failures, 1u);
  }
  EXPECT_GT(store_->usage().scrub_time_us, 0);
  // One that has most of its pass before it.
  const absl::Time begin = absl::Now();
  { const Scrubber slow(store_.get(), {.bytes_per_s = 1000}); }
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
}

}  // namespace
}  // namespace lexico::store

// The disk tier: what it acknowledged is there after any end of the process, and what went wrong is
// said with the name of the file and the numbers.
#include "cache_store/tiers/disk_tier.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/cache_store/disk_tier_fixture.h"

namespace lexico::store {
namespace {

class DiskTierTest : public DiskTierFixture {};

TEST_F(DiskTierTest, KeepsPagesOverRestarts) {
  Open();
  ASSERT_TRUE(Put(0, 1000).ok());
  EXPECT_GT(Segments().size(), 0u);
  for (int round = 0; round < 3; ++round) {
    Open();
    EXPECT_EQ(tier_->usage().n_pages, 1000u + 100 * round);
    for (uint64_t n = 0; n < 1000u + 100 * round; n += 37) EXPECT_TRUE(Has(n)) << n;
    ASSERT_TRUE(Put(1000 + 100 * round, 1100 + 100 * round).ok());
  }
}

TEST_F(DiskTierTest, APagePutTwiceTakesPlaceOnce) {
  Open();
  ASSERT_TRUE(Put(0, 10).ok());
  const uint64_t before = tier_->file_bytes();
  ASSERT_TRUE(Put(0, 10).ok());
  const std::vector<NamedPage> twice = {MakeNamedPage(20), MakeNamedPage(20)};
  ASSERT_TRUE(tier_->Put(twice, At(0)).ok());
  EXPECT_EQ(tier_->file_bytes(), before + kRecordBytes);
  EXPECT_TRUE(Has(20));
}

TEST_F(DiskTierTest, ATornTailIsCutOffAndWholePagesBeforeItStay) {
  Open();
  ASSERT_TRUE(Put(0, 3).ok());
  tier_.reset();
  const fs::path segment = Segments().back();
  const auto size = fs::file_size(segment);
  {
    std::ofstream file(segment, std::ios::app | std::ios::binary);
    file << MakePage(KeyOf(50)).bytes().substr(0, 200);  // a write that the power cut short
  }
  Open();
  EXPECT_EQ(fs::file_size(segment), size);
  for (uint64_t n = 0; n < 3; ++n) EXPECT_TRUE(Has(n));
  EXPECT_FALSE(Has(50));
  ASSERT_TRUE(Put(50, 51).ok());
  Open();
  EXPECT_TRUE(Has(50));
}

TEST_F(DiskTierTest, DamageFoundAtStartCostsOnlyTheDamagedPage) {
  Open();
  ASSERT_TRUE(Put(0, 5).ok());
  tier_.reset();
  Damage(Segments().back(), 64 + 2 * kRecordBytes + 10);
  Open();
  EXPECT_EQ(tier_->usage().n_pages, 4u);
  EXPECT_EQ(tier_->usage().n_checksum_failures, 1u);
  EXPECT_TRUE(absl::IsNotFound(tier_->Get(KeyOf(2), At(0)).status()));
  EXPECT_TRUE(Has(3));
  EXPECT_TRUE(Has(4));
}

TEST_F(DiskTierTest, DamageFoundAtReadingIsDataLossOnceWithFileOffsetAndChecksums) {
  Open();
  ASSERT_TRUE(Put(0, 5).ok());
  const fs::path segment = Segments().back();
  Damage(segment, 64 + 2 * kRecordBytes + 128 + 50);
  const absl::Status status = tier_->Get(KeyOf(2), At(0)).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  const std::string message(status.message());
  EXPECT_NE(message.find(segment.string()), std::string::npos) << message;
  EXPECT_NE(message.find(std::to_string(64 + 2 * kRecordBytes)), std::string::npos) << message;
  EXPECT_NE(message.find("crc32c is"), std::string::npos) << message;
  EXPECT_NE(message.find("stored"), std::string::npos) << message;
  EXPECT_TRUE(absl::IsNotFound(tier_->Get(KeyOf(2), At(0)).status()));
  EXPECT_EQ(tier_->usage().n_checksum_failures, 1u);
  // The worker computes the page again and puts it again.
  ASSERT_TRUE(Put(2, 3).ok());
  EXPECT_TRUE(Has(2));
  Open();
  EXPECT_TRUE(Has(2));
}

TEST_F(DiskTierTest, AMissingSegmentCostsItsPagesAndNothingElse) {
  Open();
  ASSERT_TRUE(Put(0, 600).ok());
  ASSERT_TRUE(Put(600, 700).ok());
  tier_.reset();
  ASSERT_GE(Segments().size(), 2u);
  fs::remove(Segments().front());
  Open();
  EXPECT_EQ(tier_->usage().n_pages, 100u);
  EXPECT_FALSE(Has(0));
  EXPECT_TRUE(Has(650));
  ASSERT_TRUE(Put(0, 10).ok());
  EXPECT_TRUE(Has(0));
}

TEST_F(DiskTierTest, AFailedWriteIsTakenBackAndTheNextOneSucceeds) {
  Open();
  ASSERT_TRUE(Put(0, 5).ok());
  for (const char* point : {"disk.write", "disk.sync", "disk.index"}) {
    SCOPED_TRACE(point);
    faults_.Set(point, absl::UnavailableError("injected"), 1);
    const absl::Status status = Put(100, 105);
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_FALSE(Has(100));
    EXPECT_TRUE(Has(0));
    ASSERT_TRUE(Put(100, 105).ok());
    EXPECT_TRUE(Has(104));
    Open();
    EXPECT_TRUE(Has(0));
    EXPECT_TRUE(Has(104));
    ASSERT_TRUE(absl::IsUnavailable(status));
    // Gone again for the next point.
    tier_.reset();
    fs::remove_all(options_.dir);
    Open();
    ASSERT_TRUE(Put(0, 5).ok());
  }
}

TEST_F(DiskTierTest, ATornWriteThatCannotBeTakenBackIsLeftBehind) {
  Open();
  ASSERT_TRUE(Put(0, 5).ok());
  faults_.Set("disk.write", absl::UnavailableError("injected"), 1);
  faults_.Set("disk.truncate", absl::UnavailableError("injected"), 1);
  EXPECT_TRUE(absl::IsUnavailable(Put(100, 105)));
  ASSERT_TRUE(Put(200, 205).ok());
  Open();
  EXPECT_EQ(tier_->usage().n_pages, 10u);
  EXPECT_TRUE(Has(4));
  EXPECT_TRUE(Has(204));
}

TEST_F(DiskTierTest, AFullDiskIsResourceExhaustedWithBothNumbersAndNothingIsLost) {
  Open();
  ASSERT_TRUE(Put(0, 5).ok());
  faults_.Set("disk.space", absl::ResourceExhaustedError("injected"), 1);
  const absl::Status refused = Put(100, 102);
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_NE(refused.message().find(" 0 bytes free, 512 are wanted"), std::string::npos) << refused;
  EXPECT_TRUE(Has(0));
  EXPECT_TRUE(Put(100, 102).ok());
}

// The same with a file system that is really full.
TEST_F(DiskTierTest, ARealFullFileSystemRefusesPagesKeepsManifestsAndLosesNothing) {
  const std::string mount_point = dir_.path() + "/small";
  fs::create_directories(mount_point);
  if (mount("tmpfs", mount_point.c_str(), "tmpfs", 0, "size=6m") != 0) {
    GTEST_SKIP() << "this user may not mount a tmpfs";
  }
  for (const uint64_t reserve : {uint64_t{2} << 20, uint64_t{0}}) {
    SCOPED_TRACE(reserve);
    options_.dir = mount_point + "/data" + std::to_string(reserve);
    options_.reserve_bytes = reserve;
    options_.bytes_max = 64u << 20;
    Open();
    uint64_t n_stored = 0;
    absl::Status status;
    while (status.ok() && n_stored < 100000) {
      status = Put(n_stored, n_stored + 100);
      if (status.ok()) n_stored += 100;
    }
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_GT(n_stored, 0u);
    if (reserve > 0) {
      EXPECT_TRUE(tier_->manifests().Put("session", {1, 2, std::string(10000, 'x')}).ok());
      EXPECT_TRUE(tier_->manifests().Delete("session", {}).ok());
    }
    for (uint64_t n = 0; n < n_stored; n += 53) EXPECT_TRUE(Has(n)) << n;
    EXPECT_TRUE(absl::IsResourceExhausted(Put(n_stored, n_stored + 100)));
    tier_.reset();
    fs::remove_all(mount_point + "/data" + std::to_string(reserve));
  }
  umount2(mount_point.c_str(), MNT_DETACH);
}

TEST_F(DiskTierTest, AFullTierOfClaimedPagesRefusesWithNumbers) {
  options_.bytes_max = 1u << 20;
  Open();
  uint64_t n = 0;
  absl::Status status;
  for (; n < 10000; n += 64) {
    status = Put(n, n + 64);
    if (!status.ok()) break;
    for (uint64_t i = n; i < n + 64; ++i) tier_->SetClaimed(KeyOf(i), true, At(0));
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_NE(status.message().find("--disk_bytes"), std::string::npos) << status;
  EXPECT_NE(status.message().find(std::to_string(tier_->usage().bytes_max)), std::string::npos);
  EXPECT_EQ(n, (uint64_t{1} << 20) * 3 / 4 / kRecordBytes);
  for (uint64_t i = 0; i < n; i += 101) EXPECT_TRUE(Has(i));
}

TEST_F(DiskTierTest, StaysInItsLimitByEvictingAndReclaimingAndKeepsClaimedPages) {
  options_.bytes_max = 1u << 20;
  Open();
  // Every tenth page is claimed: segments are mostly dead but never wholly.
  for (uint64_t n = 0; n < 20000; n += 100) {
    const int seconds = static_cast<int>(n);
    ASSERT_TRUE(Put(n, n + 100, seconds).ok()) << n;
    for (uint64_t i = n; i < n + 100 && n < 10000; i += 10) {
      tier_->SetClaimed(KeyOf(i), true, At(seconds));
    }
    ASSERT_LE(tier_->file_bytes(), options_.bytes_max);
  }
  EXPECT_GT(tier_->usage().n_evictions, 0u);
  for (int round = 0; round < 2; ++round) {
    for (uint64_t n = 0; n < 10000; n += 10) ASSERT_TRUE(Has(n)) << n;
    uint64_t on_disk = 0;
    for (const fs::path& path : Segments()) on_disk += fs::file_size(path);
    EXPECT_LE(on_disk, options_.bytes_max);
    Open();
  }
}

TEST_F(DiskTierTest, ASecondProcessOnTheFolderIsRefused) {
  Open();
  const auto second = DiskTier::Open(options_, At(0));
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status())) << second.status();
  EXPECT_NE(second.status().message().find("another process"), std::string::npos);
}

TEST_F(DiskTierTest, AFolderThatCannotBeMadeIsUnavailable) {
  std::ofstream(dir_.path() + "/file") << "x";
  options_.dir = dir_.path() + "/file/data";
  const auto opened = DiskTier::Open(options_, At(0));
  EXPECT_TRUE(absl::IsUnavailable(opened.status())) << opened.status();
  EXPECT_NE(opened.status().message().find(options_.dir), std::string::npos);
}

TEST_F(DiskTierTest, ThreadsPutReadAndEvictAtTheSameTime) {
  options_.bytes_max = 1u << 20;
  Open();
  std::atomic<int> n_failed = 0;
  // One clock for all threads, as in a store. It runs fast, so that leases end and pages are
  // evicted.
  std::atomic<int> seconds = 0;
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < 60; ++i) {
        const uint64_t first = 100000 * t + 20 * i;
        std::vector<NamedPage> pages;
        for (uint64_t n = first; n < first + 20; ++n) pages.push_back(MakeNamedPage(n));
        const absl::Time now = At(seconds += 25);
        if (!tier_->Put(pages, now).ok()) ++n_failed;
        const auto page = tier_->Get(KeyOf(first), now);
        if (!page.ok() && !absl::IsNotFound(page.status())) ++n_failed;
        tier_->Touch(KeyOf(first + 1), now);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(n_failed, 0);
  EXPECT_EQ(tier_->usage().n_checksum_failures, 0u);
  EXPECT_LE(tier_->file_bytes(), options_.bytes_max);
}

}  // namespace
}  // namespace lexico::store

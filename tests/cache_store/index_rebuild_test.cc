// A store without its index, or with a damaged one: refused with the remedy, and rebuilt from the
// segments and from what can still be read.
#include "cache_store/tiers/index_rebuild.h"

#include "tests/cache_store/disk_tier_fixture.h"

namespace lexico::store {
namespace {

class IndexRebuildTest : public DiskTierFixture {};

TEST_F(IndexRebuildTest, ADamagedIndexIsDataLossThatNamesTheFolder) {
  Open();
  ASSERT_TRUE(Put(0, 5).ok());
  tier_.reset();
  std::ofstream(options_.dir + "/index/CURRENT") << "nonsense\n";
  ExpectRefusedNamingTheRemedy();
}

TEST_F(IndexRebuildTest, AMissingIndexIsRefusedAndRebuiltFromEverySegment) {
  Open();
  ASSERT_TRUE(Put(0, 300).ok());
  ASSERT_TRUE(Put(300, 600).ok());
  PutManifest("session", 3);
  tier_.reset();
  ASSERT_GE(Segments().size(), 2u);  // sealed ones among them
  fs::remove_all(options_.dir + "/index");
  ExpectRefusedNamingTheRemedy();
  EXPECT_FALSE(fs::exists(options_.dir + "/index/CURRENT")) << "refusing begins no new one";
  Rebuild();
  EXPECT_EQ(tier_->usage().n_pages, 600u);
  for (uint64_t n = 0; n < 600; n += 7) EXPECT_TRUE(Has(n)) << n;
  EXPECT_TRUE(absl::IsNotFound(tier_->manifests().Get("session").status()));
  ASSERT_TRUE(Put(600, 700).ok());
  Open();
  EXPECT_EQ(tier_->usage().n_pages, 700u);
}

TEST_F(IndexRebuildTest, AnIndexWithoutItsCurrentFileIsRefusedAndRebuiltWithItsSessions) {
  Open();
  ASSERT_TRUE(Put(0, 300).ok());
  ASSERT_TRUE(Put(300, 600).ok());
  PutManifest("kept", 3);
  PutManifest("deleted", 1);
  ASSERT_TRUE(tier_->manifests().Delete("deleted", {.create_time_us = 7, .epoch = 1}).ok());
  Open();
  PutManifest("kept", 4);
  tier_.reset();
  fs::remove(options_.dir + "/index/CURRENT");
  ExpectRefusedNamingTheRemedy();
  Rebuild();
  EXPECT_EQ(tier_->usage().n_pages, 600u);
  const auto kept = tier_->manifests().Get("kept");
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_EQ(kept->epoch, 4u);
  EXPECT_EQ(kept->bytes, "bytes of kept");
  EXPECT_TRUE(absl::IsNotFound(tier_->manifests().Get("deleted").status()));
  std::vector<std::string> tombstones;
  ASSERT_TRUE(tier_->manifests()
                  .ForEachTombstone(
                      [&](const std::string& id, const Tombstone&) { tombstones.push_back(id); })
                  .ok());
  EXPECT_EQ(tombstones, std::vector<std::string>{"deleted"});
  EXPECT_FALSE(fs::is_empty(options_.dir + "/index.damaged-1")) << "the old one stays";
  Open();
  EXPECT_EQ(tier_->usage().n_pages, 600u);
}

TEST_F(IndexRebuildTest, ADamagedIndexTableCostsOnlyWhatWasInIt) {
  Open();
  ASSERT_TRUE(Put(0, 300).ok());
  ASSERT_TRUE(Put(300, 600).ok());
  Open();  // into a table
  PutManifest("kept", 3);
  tier_.reset();
  const auto tables = IndexFiles(".sst");
  ASSERT_FALSE(tables.empty());
  for (const fs::path& table : tables) {
    for (uint64_t offset = 0; offset < fs::file_size(table); offset += 97) Damage(table, offset);
  }
  ExpectRefusedNamingTheRemedy();
  Rebuild();
  EXPECT_EQ(tier_->usage().n_pages, 600u) << "pages are in the segments";
  EXPECT_TRUE(tier_->manifests().Get("kept").ok()) << "it was in the log";
}

TEST_F(IndexRebuildTest, ARebuildThatWasCutShortIsRunAgain) {
  Open();
  ASSERT_TRUE(Put(0, 10).ok());
  PutManifest("kept", 3);
  tier_.reset();
  // Between its two renames.
  fs::rename(options_.dir + "/index", options_.dir + "/index.damaged-1");
  fs::create_directory(options_.dir + "/index.new");
  ExpectRefusedNamingTheRemedy();
  Rebuild();
  EXPECT_EQ(tier_->usage().n_pages, 10u);
  EXPECT_TRUE(tier_->manifests().Get("kept").ok());
}

}  // namespace
}  // namespace lexico::store

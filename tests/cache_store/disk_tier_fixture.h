// A disk tier in a folder of its own, and ways to damage what lies there.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "cache_store/tiers/disk_tier.h"
#include "tests/cache_store/page_factory.h"

namespace lexico::store {

namespace fs = std::filesystem;

inline const absl::Time kStart = absl::FromUnixSeconds(1000);
inline absl::Time At(int seconds) { return kStart + absl::Seconds(seconds); }

class DiskTierFixture : public testing::Test {
 protected:
  DiskTierFixture() {
    options_.dir = dir_.path() + "/data";
    options_.bytes_max = 8u << 20;
    options_.segment_bytes = 64u << 10;
    options_.reserve_bytes = 0;
    options_.faults = &faults_;
  }

  // As an operator after it was refused: once with the flag.
  void Rebuild() {
    options_.rebuild_index = true;
    Open();
    options_.rebuild_index = false;
  }
  void ExpectRefusedNamingTheRemedy() {
    const absl::Status status = DiskTier::Open(options_, At(0)).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_NE(status.message().find("start once with --rebuild_index"), std::string::npos)
        << status;
    EXPECT_NE(status.message().find(options_.dir + "/index"), std::string::npos) << status;
  }
  // Files of the index with this extension.
  std::vector<fs::path> IndexFiles(const std::string& extension) const {
    std::vector<fs::path> paths;
    for (const auto& entry : fs::directory_iterator(options_.dir + "/index")) {
      if (entry.path().extension() == extension) paths.push_back(entry.path());
    }
    return paths;
  }
  void PutManifest(const std::string& id, uint64_t epoch) {
    ASSERT_TRUE(tier_->manifests().Put(id, {.epoch = epoch, .bytes = "bytes of " + id}).ok());
  }

  void Open() {
    tier_.reset();
    auto tier = DiskTier::Open(options_, At(0));
    ASSERT_TRUE(tier.ok()) << tier.status();
    tier_ = *std::move(tier);
  }
  absl::Status Put(uint64_t begin, uint64_t end, int seconds = 0) {
    std::vector<NamedPage> pages;
    for (uint64_t n = begin; n < end; ++n) pages.push_back(MakeNamedPage(n));
    return tier_->Put(pages, At(seconds));
  }
  bool Has(uint64_t n) {
    const auto page = tier_->Get(KeyOf(n), At(0));
    return page.ok() && std::ranges::equal((*page)->bytes(), MakeNamedPage(n).page->bytes());
  }
  // Segment files in the order of their ids.
  std::vector<fs::path> Segments() const {
    std::vector<fs::path> paths;
    for (const auto& entry : fs::directory_iterator(options_.dir + "/segments")) {
      paths.push_back(entry.path());
    }
    std::sort(paths.begin(), paths.end());
    return paths;
  }
  // Flips one bit of the file.
  static void Damage(const fs::path& path, uint64_t offset) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset));
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(byte);
    ASSERT_TRUE(file.good());
  }

  // A record of a test page: 248 bytes and padding.
  static constexpr uint64_t kRecordBytes = 256;

  TempDir dir_;
  base::FaultInjector faults_;
  DiskTierOptions options_;
  std::unique_ptr<DiskTier> tier_;
};

}  // namespace lexico::store

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "tests/support/status_matchers.h"
#include "worker/kv/page_pool.h"

namespace lexico::worker {
namespace {

using absl::StatusCode;
using tests::StatusIs;

constexpr size_t kSlab = 4096;

class PagePoolTest : public testing::Test {
 protected:
  explicit PagePoolTest(int n_slabs = 4) : pool_(*PagePool::Create(n_slabs * kSlab, kSlab)) {}

  std::vector<uint8_t*> Acquire(size_t bytes, size_t count) {
    std::vector<uint8_t*> blocks(count);
    if (!pool_->Acquire(bytes, blocks)) blocks.clear();
    return blocks;
  }

  std::unique_ptr<PagePool> pool_;
};

TEST_F(PagePoolTest, BlocksAreAlignedDistinctAndWritable) {
  const auto blocks = Acquire(1000, 8);  // 1024 each, four a slab
  ASSERT_EQ(blocks.size(), 8u);
  const std::set<uint8_t*> distinct(blocks.begin(), blocks.end());
  EXPECT_EQ(distinct.size(), 8u);
  for (size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(blocks[i]) % kBlockAlignment, 0u);
    std::memset(blocks[i], static_cast<int>(i), 1000);
  }
  for (size_t i = 0; i < blocks.size(); ++i) EXPECT_EQ(blocks[i][999], i);
  pool_->Release(blocks);
}

TEST_F(PagePoolTest, ExhaustionGivesNothingRatherThanAPart) {
  const auto blocks = Acquire(1024, 15);
  ASSERT_EQ(blocks.size(), 15u);
  EXPECT_TRUE(Acquire(1024, 2).empty());
  EXPECT_EQ(pool_->usage().used_blocks, 15);
  const auto last = Acquire(1024, 1);
  EXPECT_EQ(last.size(), 1u);
  EXPECT_TRUE(Acquire(64, 1).empty());
  pool_->Release(blocks);
  pool_->Release(last);
}

TEST_F(PagePoolTest, SpareSlabsAreForThoseWhoAskForThem) {
  pool_->KeepSpare(1);
  EXPECT_EQ(pool_->n_slabs(), 3);
  EXPECT_EQ(pool_->free_slabs(), 3);
  EXPECT_EQ(pool_->FreeBlocks(1024), 12);
  EXPECT_EQ(pool_->FreeBlocks(1024, /*from_spare=*/true), 16);
  const auto blocks = Acquire(1024, 12);
  ASSERT_EQ(blocks.size(), 12u);
  EXPECT_TRUE(Acquire(64, 1).empty());
  std::vector<uint8_t*> small(1);
  ASSERT_TRUE(pool_->Acquire(64, small, /*from_spare=*/true));
  // Its slab serves all now, and the next that is free is spare again.
  EXPECT_EQ(pool_->FreeBlocks(64), 63);
  pool_->Release(std::span(blocks).first(4));
  EXPECT_EQ(pool_->free_slabs(), 0);
  EXPECT_TRUE(Acquire(1024, 1).empty());
  pool_->Release(std::span(blocks).subspan(4));
  EXPECT_EQ(pool_->free_slabs(), 2);
  pool_->Release(small);
  EXPECT_EQ(pool_->free_slabs(), 3);
}

TEST_F(PagePoolTest, ExchangedBlocksFitWhereTheirSlabsBecomeFree) {
  auto large = Acquire(1024, 16);
  ASSERT_EQ(large.size(), 16u);
  const std::vector<const uint8_t*> all(large.begin(), large.end());
  EXPECT_EQ(pool_->SlabsFreedBy(all), 4);
  EXPECT_EQ(pool_->SlabsFreedBy(std::span(all).first(7)), 1);
  // Three of a slab's four leave no slab.
  auto some = std::span(large).first(3);
  const std::vector<uint8_t*> before(some.begin(), some.end());
  EXPECT_FALSE(pool_->Exchange(512, some));
  EXPECT_TRUE(std::equal(some.begin(), some.end(), before.begin()));
  auto whole = std::span(large).first(4);
  pool_->Retain(whole.first(1));
  EXPECT_EQ(pool_->CountShared(std::span(all).first(4)), 1);
  EXPECT_TRUE(pool_->IsShared(all[0]));
  EXPECT_FALSE(pool_->IsShared(all[1]));
  EXPECT_EQ(pool_->SlabsFreedBy(std::span(all).first(4)), 0);
  pool_->Release(whole.first(1));
  ASSERT_TRUE(pool_->Exchange(512, whole));
  EXPECT_EQ(pool_->FreeBlocks(512), 4);
  EXPECT_EQ(pool_->usage().used_blocks, 16);
  EXPECT_EQ(pool_->SlabOf(whole[0]), pool_->SlabOf(whole[3]));
  pool_->Release(large);
}

TEST_F(PagePoolTest, AnEmptySlabServesAnotherSize) {
  const auto small = Acquire(512, 32);
  ASSERT_EQ(small.size(), 32u);
  EXPECT_TRUE(Acquire(4096, 1).empty());
  pool_->Release(small);
  EXPECT_EQ(pool_->free_slabs(), 4);
  const auto large = Acquire(4096, 4);
  EXPECT_EQ(large.size(), 4u);
  pool_->Release(large);
}

TEST_F(PagePoolTest, ASlabWithOneBlockInUseStaysWithItsSize) {
  auto small = Acquire(512, 8);
  pool_->Release(std::span(small).first(7));
  EXPECT_EQ(pool_->free_slabs(), 3);
  EXPECT_EQ(pool_->FreeBlocks(512), 3 * 8 + 7);
  EXPECT_EQ(pool_->FreeBlocks(4096), 3);
  pool_->Release(std::span(small).last(1));
}

TEST_F(PagePoolTest, SlabsForCountsFreeBlocksFirst) {
  const auto blocks = Acquire(1024, 1);
  EXPECT_EQ(pool_->SlabsFor(1024, 3), 0);
  EXPECT_EQ(pool_->SlabsFor(1024, 4), 1);
  EXPECT_EQ(pool_->SlabsFor(1024, 7), 1);
  EXPECT_EQ(pool_->SlabsFor(1024, 8), 2);
  EXPECT_EQ(pool_->SlabsFor(512, 0), 0);
  pool_->Release(blocks);
}

TEST_F(PagePoolTest, ABlockLivesUntilItsLastReferenceIsReleased) {
  const auto blocks = Acquire(1024, 1);
  pool_->Retain(blocks);
  pool_->Release(blocks);
  EXPECT_EQ(pool_->usage().used_bytes, 1024u);
  EXPECT_EQ(pool_->usage().reserved_bytes, kSlab);
  pool_->Release(blocks);
  EXPECT_EQ(pool_->usage().used_bytes, 0u);
  EXPECT_EQ(pool_->usage().reserved_bytes, 0u);
}

TEST_F(PagePoolTest, ABlockRefHoldsItsBlock) {
  const auto blocks = Acquire(1024, 1);
  {
    BlockRef first(pool_.get(), blocks[0]);
    pool_->Release(blocks);
    BlockRef second = first;
    first = BlockRef();
    EXPECT_EQ(second.data(), blocks[0]);
    EXPECT_EQ(pool_->usage().used_blocks, 1);
    const BlockRef third = std::move(second);
    EXPECT_EQ(pool_->usage().used_blocks, 1);
  }
  EXPECT_EQ(pool_->usage().used_blocks, 0);
}

TEST_F(PagePoolTest, RandomOperationsAgreeWithAModel) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    std::mt19937_64 random(seed);
    std::map<uint8_t*, std::pair<int, size_t>> model;  // references and bytes
    for (int step = 0; step < 400; ++step) {
      const size_t bytes = 64 << (random() % 7);
      const int action = static_cast<int>(random() % 3);
      if (action == 0) {
        for (uint8_t* block : Acquire(bytes, random() % 4)) {
          ASSERT_TRUE(model.emplace(block, std::pair(1, bytes)).second) << "seed " << seed;
        }
      } else if (!model.empty()) {
        auto it = model.begin();
        std::advance(it, random() % model.size());
        uint8_t* const block = it->first;
        if (action == 1) {
          pool_->Retain({&block, 1});
          ++it->second.first;
        } else {
          pool_->Release({&block, 1});
          if (--it->second.first == 0) model.erase(it);
        }
      }
      size_t used = 0;
      for (const auto& [block, held] : model) used += held.second;
      ASSERT_EQ(pool_->usage().used_bytes, used) << "seed " << seed << " step " << step;
      ASSERT_EQ(pool_->usage().used_blocks, static_cast<int64_t>(model.size()));
    }
    for (const auto& [block, held] : model) {
      for (int i = 0; i < held.first; ++i) pool_->Release({&block, 1});
    }
    ASSERT_EQ(pool_->free_slabs(), 4) << "seed " << seed;
  }
}

TEST_F(PagePoolTest, ThreadsShareIt) {
  const auto work = [this](uint64_t seed) {
    std::mt19937_64 random(seed);
    for (int i = 0; i < 500; ++i) {
      std::vector<uint8_t*> blocks(random() % 3);
      if (!pool_->Acquire(512, blocks)) continue;
      for (uint8_t* block : blocks) block[0] = static_cast<uint8_t>(seed);
      pool_->Retain(blocks);
      pool_->Release(blocks);
      pool_->Release(blocks);
    }
  };
  std::thread first(work, 1);
  std::thread second(work, 2);
  first.join();
  second.join();
  EXPECT_EQ(pool_->usage().used_blocks, 0);
}

TEST(PagePoolCreateTest, TooLittleMemoryForOneSlabIsInvalid) {
  EXPECT_THAT(PagePool::Create(1000, kSlab),
              StatusIs(StatusCode::kInvalidArgument, "raise --kv_memory"));
}

TEST(PagePoolCreateTest, MoreMemoryThanTheAddressSpaceIsResourceExhausted) {
  EXPECT_THAT(PagePool::Create(size_t{1} << 60, kSlab),
              StatusIs(StatusCode::kResourceExhausted, "lower --kv_memory"));
}

TEST(PagePoolDeathTest, ReleasingTwiceIsABug) {
  auto pool = *PagePool::Create(kSlab, kSlab);
  std::vector<uint8_t*> blocks(2);
  ASSERT_TRUE(pool->Acquire(512, blocks));
  pool->Release(std::span(blocks).first(1));
  EXPECT_DEATH(pool->Release(std::span(blocks).first(1)), "refs");
  pool->Release(std::span(blocks).last(1));
}

// Two ranks: a block is there twice, at the same place of two arenas.
TEST(PagePoolRanksTest, ABlockLiesAtTheSamePlaceOnEveryRank) {
  const std::vector<kernels::Stream> streams(2, kernels::Stream::Cpu(1));
  auto pool = *PagePool::CreateForRanks(4 * kSlab, kSlab, streams);
  EXPECT_EQ(pool->n_ranks(), 2);
  EXPECT_EQ(pool->n_slabs(), 2);
  EXPECT_EQ(pool->usage().total_bytes, 4 * kSlab);
  std::vector<uint8_t*> blocks(2);
  ASSERT_TRUE(pool->Acquire(1024, blocks));
  EXPECT_EQ(pool->usage().used_bytes, 2 * 2 * 1024u);
  EXPECT_EQ(pool->At(blocks[0], 0), blocks[0]);
  EXPECT_NE(pool->At(blocks[0], 1), blocks[0]);
  EXPECT_EQ(pool->At(blocks[1], 1) - pool->At(blocks[0], 1), blocks[1] - blocks[0]);
  // Copies of blocks are made on every rank, of host memory on the one that is named.
  for (int rank = 0; rank < 2; ++rank) {
    std::vector<uint8_t> bytes(1024, static_cast<uint8_t>(rank + 5));
    pool->Upload({{{pool->At(blocks[0], rank), bytes.data(), bytes.size(), rank}}});
  }
  pool->CopyBlock(blocks[1], blocks[0], 1024);
  for (int rank = 0; rank < 2; ++rank) {
    std::vector<uint8_t> bytes(1024);
    pool->Download({{{pool->At(blocks[1], rank), bytes.data(), bytes.size(), rank}}});
    EXPECT_EQ(bytes, std::vector<uint8_t>(1024, static_cast<uint8_t>(rank + 5)));
  }
  pool->Release(blocks);
  EXPECT_THAT(PagePool::CreateForRanks(2 * kSlab - 1, kSlab, streams),
              StatusIs(StatusCode::kInvalidArgument, "raise --kv_memory"));
}

}  // namespace
}  // namespace lexico::worker

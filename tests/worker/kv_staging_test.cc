// Lanes on every device: what goes through them arrives, whole and in its place.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <thread>
#include <vector>

#include "tests/kernels/device_ops.h"
#include "worker/kv/page_pool.h"

namespace lexico::worker {
namespace {

constexpr size_t kHalf = 1024;
constexpr size_t kSlab = 16384;

class StagingTest : public tests::DeviceTest {
 protected:
  void SetUp() override {
    tests::DeviceTest::SetUp();
    if (IsSkipped()) return;
    pool_ = *PagePool::Create(8 * kSlab, kSlab, stream(),
                              {.n_lanes = 2, .half_bytes = kHalf, .on_host = true});
  }

  static std::vector<uint8_t> Bytes(size_t n, uint8_t first) {
    std::vector<uint8_t> bytes(n);
    std::iota(bytes.begin(), bytes.end(), first);
    return bytes;
  }
  std::vector<uint8_t*> Acquire(size_t bytes, size_t n) {
    std::vector<uint8_t*> blocks(n);
    EXPECT_TRUE(pool_->Acquire(bytes, blocks));
    return blocks;
  }

  std::unique_ptr<PagePool> pool_;
};
LEXICO_TEST_ON_ALL_DEVICES(StagingTest);

TEST_P(StagingTest, CopiesOfAnyLengthGoThereAndBack) {
  const std::vector<size_t> lengths = {1, 100, kHalf - 1, kHalf, kHalf + 1, 3 * kHalf + 7};
  std::vector<uint8_t*> blocks = Acquire(4 * kHalf, lengths.size());
  std::vector<std::vector<uint8_t>> there, back;
  std::vector<HostCopy> up, down;
  for (size_t i = 0; i < lengths.size(); ++i) {
    there.push_back(Bytes(lengths[i], static_cast<uint8_t>(i)));
    back.emplace_back(lengths[i]);
    up.push_back({blocks[i] + i, there[i].data(), lengths[i]});
    down.push_back({blocks[i] + i, back[i].data(), lengths[i]});
  }
  pool_->Upload(up);
  pool_->Download(down);
  EXPECT_EQ(there, back);
  pool_->Download({});
  pool_->Upload({});
  pool_->Release(blocks);
}

TEST_P(StagingTest, NeighboursAndStrangersArriveInTheirPlaces) {
  std::vector<uint8_t*> blocks = Acquire(256, 4);
  Staging::LaneHold lane = pool_->staging()->Take();
  ASSERT_EQ(lane->half(0).size(), kHalf);
  EXPECT_EQ(lane->half(1).data(), lane->half(0).data() + kHalf);
  std::ranges::copy(Bytes(kHalf, 1), lane->half(0).begin());
  // The first two lie side by side on both ends, the others only in the lane.
  for (const size_t i : {0, 1, 3, 2}) {
    const size_t place = i < 2 ? i : 5 - i;
    lane->Upload({blocks[i], lane->half(0).data() + 256 * place, 256});
  }
  lane->Synchronize();
  for (size_t i = 0; i < 4; ++i) {
    lane->Download({blocks[i], lane->half(1).data() + 256 * i, 256});
  }
  lane->Synchronize();
  std::vector<uint8_t> expected = Bytes(kHalf, 1);
  std::rotate(expected.begin() + 512, expected.begin() + 768, expected.end());
  EXPECT_TRUE(std::ranges::equal(lane->half(1), expected));
  lane.reset();
  pool_->Release(blocks);
}

TEST_P(StagingTest, AHeldLaneWaitsForItsCopiesAndIsThenFree) {
  std::vector<uint8_t*> blocks = Acquire(kHalf, 1);
  for (uint8_t n = 0; n < 8; ++n) {  // more often than there are lanes
    const Staging::LaneHold lane = pool_->staging()->Take();
    std::ranges::copy(Bytes(kHalf, n), lane->half(n % 2).begin());
    lane->Upload({blocks[0], lane->half(n % 2).data(), kHalf});
  }
  std::vector<uint8_t> back(kHalf);
  pool_->Download({{{blocks[0], back.data(), kHalf}}});
  EXPECT_EQ(back, Bytes(kHalf, 7));
  pool_->Release(blocks);
}

TEST_P(StagingTest, MoreThreadsThanLanesShareThem) {
  std::vector<uint8_t*> blocks = Acquire(kHalf, 6);
  std::vector<std::thread> threads;
  std::vector<int> n_wrong(blocks.size());
  for (size_t t = 0; t < blocks.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 20; ++round) {
        const std::vector<uint8_t> bytes = Bytes(kHalf, static_cast<uint8_t>(31 * t + round));
        const Staging::LaneHold lane = pool_->staging()->Take();
        std::ranges::copy(bytes, lane->half(0).begin());
        lane->Upload({blocks[t], lane->half(0).data(), kHalf});
        lane->Download({blocks[t], lane->half(1).data(), kHalf});
        lane->Synchronize();
        n_wrong[t] += !std::ranges::equal(lane->half(1), bytes);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(std::accumulate(n_wrong.begin(), n_wrong.end(), 0), 0);
  pool_->Release(blocks);
}

}  // namespace
}  // namespace lexico::worker

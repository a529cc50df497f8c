// Every rank gets the same, right answer, on every device. GPUs: as many as there are, 2 or 4.
#include "kernels/api/collective.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "kernels/api/rank_team.h"
#include "tests/kernels/device_array.h"
#include "tests/kernels/device_ops.h"

namespace lexico::kernels {
namespace {

using tests::DeviceArray;

std::vector<float> RandomNumbers(int64_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> numbers(n);
  for (float& x : numbers) x = normal(random);
  return numbers;
}

class CollectiveTest : public tests::DeviceTest {
 protected:
  // Streams of that many ranks; none where there are not as many GPUs.
  std::vector<Stream> Streams(int size) const {
    auto streams = Stream::OpenRanks(on_gpu() ? "cuda" : "cpu", size, size);
    if (!streams.ok()) return {};
    return *std::move(streams);
  }
  static std::vector<std::shared_ptr<Communicator>> Connect(std::span<const Stream> streams) {
    auto made = MakeCommunicators(streams);
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  }
};

// GPUs: at least two.
#define SKIP_WITHOUT_RANKS() \
  if (Streams(2).empty()) GTEST_SKIP() << "needs two GPUs"

TEST_P(CollectiveTest, AllReduceAddsUpAndAllRanksHaveTheSameBits) {
  SKIP_WITHOUT_RANKS();
  for (const int size : {2, 3, 4}) {
    const std::vector<Stream> streams = Streams(size);
    if (streams.empty()) continue;
    const auto ranks = Connect(streams);
    RankTeam team(size);
    for (const int64_t n : {1, 2, 7, 4096, 100'003}) {
      std::vector<std::vector<float>> x(size);
      for (int rank = 0; rank < size; ++rank) x[rank] = RandomNumbers(n, 10 * size + rank);
      std::vector<std::vector<float>> sums(size);
      team.Run([&](int rank) {
        const DeviceArray<float> array(x[rank], streams[rank]);
        ranks[rank]->AllReduceSum(array.data(), n, streams[rank]);
        sums[rank] = array.Values();
      });
      for (int64_t i = 0; i < n; ++i) {
        double sum = 0;
        double magnitude = 0;
        for (int rank = 0; rank < size; ++rank) {
          sum += x[rank][i];
          magnitude += std::abs(x[rank][i]);
        }
        ASSERT_NEAR(sums[0][i], sum, magnitude * size * 6e-8) << n << " " << i;
      }
      for (int rank = 1; rank < size; ++rank) {
        ASSERT_EQ(0, std::memcmp(sums[rank].data(), sums[0].data(), n * sizeof(float))) << n;
      }
    }
  }
}

// Sums behind each other without a pause, of sizes that go different ways: each is right, whoever
// is ahead. Whole numbers, so that sums are exact.
TEST_P(CollectiveTest, ManySumsInARowStayRight) {
  SKIP_WITHOUT_RANKS();
  std::mt19937_64 random(3);
  for (const int size : {2, 4}) {
    const std::vector<Stream> streams = Streams(size);
    if (streams.empty()) continue;
    const auto ranks = Connect(streams);
    RankTeam team(size);
    for (int round = 0; round < (on_gpu() ? 40 : 2); ++round) {
      std::vector<int64_t> begins = {0};
      const int n_sums = on_gpu() ? 60 : 10;
      for (int i = 0; i < n_sums; ++i) {
        const int64_t n = 1 + static_cast<int64_t>(random() % (i % 10 == 0 ? 400'000 : 9'000));
        begins.push_back((begins.back() + n + 3) / 4 * 4);
      }
      const int64_t total = begins.back();
      std::vector<std::vector<float>> sums(size);
      team.Run([&](int rank) {
        std::vector<float> x(total);
        for (int64_t i = 0; i < total; ++i) x[i] = static_cast<float>((rank + 1) * (i % 7));
        const DeviceArray<float> array(x, streams[rank]);
        for (int repeat = 0; repeat < 3; ++repeat) {
          for (int i = 0; i < n_sums; ++i) {
            ranks[rank]->AllReduceSum(array.data() + begins[i], begins[i + 1] - begins[i],
                                      streams[rank]);
          }
        }
        sums[rank] = array.Values();
      });
      const int first = size * (size + 1) / 2;
      for (int rank = 0; rank < size; ++rank) {
        for (int64_t i = 0; i < total; ++i) {
          ASSERT_EQ(sums[rank][i], static_cast<float>(first * size * size * (i % 7)))
              << "rank " << rank << " number " << i << " round " << round;
        }
      }
    }
  }
}

TEST_P(CollectiveTest, AllGatherPutsColumnsBesideEachOther) {
  SKIP_WITHOUT_RANKS();
  for (const int size : {2, 4}) {
    const std::vector<Stream> streams = Streams(size);
    if (streams.empty()) continue;
    const auto ranks = Connect(streams);
    RankTeam team(size);
    // The last part may be narrower; the last width fills the workspace of a GPU several times.
    for (const auto& [n_rows, width] : {std::pair<int64_t, int64_t>{1, 4},
                                        {1, 1024},
                                        {5, 1023},
                                        {64, 777},
                                        {on_gpu() ? 600 : 6, 300'001}}) {
      const std::vector<float> whole = RandomNumbers(n_rows * width, size);
      std::vector<std::vector<float>> out(size);
      team.Run([&](int rank) {
        const RankPart part = PartOfRank(width, rank, size);
        std::vector<float> local(n_rows * PartOfRank(width, 0, size).count, -1);
        for (int64_t row = 0; row < n_rows; ++row) {
          std::copy_n(whole.begin() + row * width + part.begin, part.count,
                      local.begin() + row * part.count);
        }
        const DeviceArray<float> from(local, streams[rank]);
        const DeviceArray<float> to(std::vector<float>(n_rows * width, -2), streams[rank]);
        ranks[rank]->AllGatherColumns(from.data(), n_rows, width, to.data(), streams[rank]);
        out[rank] = to.Values();
      });
      for (int rank = 0; rank < size; ++rank) ASSERT_EQ(out[rank], whole) << width;
    }
  }
}

TEST_P(CollectiveTest, ASingleRankNeedsNone) {
  const std::vector<Stream> streams = Streams(1);
  if (streams.empty()) GTEST_SKIP();
  EXPECT_EQ(Connect(streams), std::vector<std::shared_ptr<Communicator>>(1));
}

TEST_P(CollectiveTest, TwoRanksOfOneGpuAreRefused) {
  if (!on_gpu()) GTEST_SKIP() << "a CPU has room for any number";
  const std::vector<Stream> streams(2, stream());
  const absl::Status status = MakeCommunicators(streams).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("2 ranks need as many GPUs"), absl::string_view::npos) << status;
}

TEST(PartOfRankTest, PartsCoverEverythingOnce) {
  for (int64_t n = 0; n < 40; ++n) {
    for (int size = 1; size <= 8; ++size) {
      int64_t end = 0;
      for (int rank = 0; rank < size; ++rank) {
        const RankPart part = PartOfRank(n, rank, size);
        ASSERT_EQ(part.begin, end);
        ASSERT_GE(part.count, 0);
        end += part.count;
      }
      ASSERT_EQ(end, n);
    }
  }
}

LEXICO_TEST_ON_ALL_DEVICES(CollectiveTest);

}  // namespace
}  // namespace lexico::kernels

#include "kernels/api/rank_team.h"

#include <gtest/gtest.h>

#include <barrier>
#include <chrono>

namespace lexico::kernels {
namespace {

TEST(RankTeamTest, EveryRankRunsOnceOnItsOwnThread) {
  for (const int size : {1, 2, 4}) {
    RankTeam team(size);
    std::vector<std::thread::id> threads(size);
    std::vector<int> runs(size);
    for (int round = 0; round < 200; ++round) {
      team.Run([&](int rank) {
        ++runs[rank];
        if (round == 0) threads[rank] = std::this_thread::get_id();
        EXPECT_EQ(threads[rank], std::this_thread::get_id());
      });
      for (const int n : runs) ASSERT_EQ(n, round + 1);
    }
    EXPECT_EQ(threads[0], std::this_thread::get_id());
    for (int rank = 1; rank < size; ++rank) EXPECT_NE(threads[rank], threads[0]);
  }
}

// They are there at the same time: each waits for all others.
TEST(RankTeamTest, RanksRunTogether) {
  RankTeam team(3);
  std::barrier<> barrier(3);
  std::atomic<int> met = 0;
  team.Run([&](int rank) {
    barrier.arrive_and_wait();
    ++met;
  });
  EXPECT_EQ(met, 3);
}

// A pause long enough for every thread to have gone to sleep.
TEST(RankTeamTest, ASleepingTeamWakes) {
  RankTeam team(2);
  int runs[2] = {};
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    team.Run([&](int rank) {
      if (rank == 1) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      ++runs[rank];
    });
  }
  EXPECT_EQ(runs[0], 3);
  EXPECT_EQ(runs[1], 3);
}

}  // namespace
}  // namespace lexico::kernels

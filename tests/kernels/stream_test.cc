// What a Stream promises about the threads that ops leave behind.
#include "kernels/api/stream.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <chrono>
#include <filesystem>
#include <iterator>
#include <thread>

namespace lexico::kernels {
namespace {

int64_t CountThreads() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/task"),
                       std::filesystem::directory_iterator());
}

TEST(StreamTest, OpensByName) {
  const auto cpu = Stream::Open("cpu", 3);
  ASSERT_TRUE(cpu.ok());
  EXPECT_EQ(cpu->threads(), 3);
  EXPECT_EQ(cpu->Sibling().kind(), DeviceKind::kCpu);
  for (const char* name : {"", "gpu", "cuda:", "cuda:x", "cuda:1x", "cuda:-1", "cudax", "CPU"}) {
    const absl::Status status = Stream::Open(name, 1).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_NE(status.message().find("none of cpu, cuda, cuda:0"), absl::string_view::npos);
  }
}

TEST(StreamTest, AGpuThatIsNotThereIsSaid) {
  const absl::Status status = Stream::Open("cuda:99", 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_FALSE(status.message().empty());
}

TEST(StreamTest, RanksShareTheThreads) {
  const auto ranks = Stream::OpenRanks("cpu", 5, 2);
  ASSERT_TRUE(ranks.ok());
  ASSERT_EQ(ranks->size(), 2u);
  for (const Stream& rank : *ranks) EXPECT_EQ(rank.threads(), 2);
  EXPECT_EQ((*Stream::OpenRanks("cpu", 2, 4))[3].threads(), 1);
}

TEST(StreamTest, RanksThatCannotBeAreRefused) {
  for (const int size : {0, -1, 9}) {
    const absl::Status status = Stream::OpenRanks("cpu", 1, size).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("1 to 8"), absl::string_view::npos) << status;
  }
  // One that is not there is named, and why it is needed.
  const absl::Status status = Stream::OpenRanks("cuda:98", 1, 4).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_NE(status.message().find("4 GPUs from cuda:98 on"), absl::string_view::npos) << status;
}

TEST(StreamTest, ReleasedThreadsEndAndTheNextOpHasThemAgain) {
  const Stream stream = Stream::Cpu(3);
  const int64_t before = CountThreads();
  for (int round = 0; round < 2; ++round) {
    int team = 0;
#pragma omp parallel num_threads(stream.threads())
    {
#pragma omp single
      team = omp_get_num_threads();
    }
    ASSERT_EQ(team, 3);
    ASSERT_EQ(CountThreads(), before + 2);
    stream.ReleaseThreads();
    // They end on their own time.
    for (int i = 0; i < 1000 && CountThreads() != before; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    EXPECT_EQ(CountThreads(), before);
  }
}

}  // namespace
}  // namespace lexico::kernels

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

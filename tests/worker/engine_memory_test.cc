// Working memory of prefills and the arrays of a step, on every device.
#include <gmock/gmock.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "tests/kernels/device_ops.h"
#include "worker/engine/step_arrays.h"
#include "worker/engine/work_arena.h"

namespace lexico::worker {
namespace {

class WorkArenaTest : public tests::DeviceTest {
 protected:
  std::unique_ptr<WorkArena> Arena(size_t bytes) const {
    return *WorkArena::Create(bytes, stream());
  }
};
LEXICO_TEST_ON_ALL_DEVICES(WorkArenaTest);

TEST_P(WorkArenaTest, ArraysOfAPieceAreAlignedAndApart) {
  auto arena = Arena(1 << 16);
  auto piece = arena->Acquire(WorkArena::Piece::BytesFor<float>(3) +
                              WorkArena::Piece::BytesFor<uint8_t>(300));
  ASSERT_TRUE(piece.ok()) << piece.status();
  const auto* a = reinterpret_cast<const uint8_t*>(piece->Take<float>(3));
  const auto* b = piece->Take<uint8_t>(300);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a) % 256, 0u);
  EXPECT_EQ(b, a + 256);
  EXPECT_DEATH(piece->Take<uint8_t>(300), "");
}

TEST_P(WorkArenaTest, TellsWhatAcquireWouldGive) {
  auto arena = Arena(3 * 256);
  if (!on_gpu()) {
    EXPECT_TRUE(arena->Fits(size_t{1} << 40));
    return;
  }
  EXPECT_TRUE(arena->Fits(3 * 256));
  EXPECT_FALSE(arena->Fits(3 * 256 + 1));
  const auto piece = arena->Acquire(200);
  EXPECT_TRUE(arena->Fits(512));
  EXPECT_FALSE(arena->Fits(513));
}

TEST_P(WorkArenaTest, MemoryComesBackAndJoins) {
  auto arena = Arena(3 * 256);
  auto first = *arena->Acquire(256);
  auto second = *arena->Acquire(256);
  auto third = *arena->Acquire(200);
  if (on_gpu()) {
    const auto refused = arena->Acquire(1);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(refused.status().message()),
                testing::HasSubstr("needs 256 B of working memory"));
  }
  third = WorkArena::Piece();
  first = WorkArena::Piece();
  if (on_gpu()) {
    EXPECT_FALSE(arena->Acquire(512).ok());
  }
  second = WorkArena::Piece();
  EXPECT_TRUE(arena->Acquire(768).ok());
}

TEST_P(WorkArenaTest, MoreThanADeviceHasIsRefusedWithTheOption) {
  if (!on_gpu()) return;
  const absl::Status refused = WorkArena::Create(size_t{1} << 50, stream()).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()),
              testing::AllOf(testing::HasSubstr("lower --prefill_memory"),
                             testing::HasSubstr("bytes free")));
}

TEST_P(WorkArenaTest, SaysWhatItCanGiveAtMost) {
  if (on_gpu()) {
    EXPECT_EQ(Arena(1000)->bytes_max(), 1024u);
  } else {
    EXPECT_GT(Arena(1000)->bytes_max(), size_t{1} << 40);
  }
}

class StepArraysTest : public tests::DeviceTest {};
LEXICO_TEST_ON_ALL_DEVICES(StepArraysTest);

TEST_P(StepArraysTest, WhatIsWrittenOnTheHostIsThereAfterUpload) {
  StepArrays arrays(stream());
  ASSERT_TRUE(arrays.Reserve(4096).ok());
  for (int step = 0; step < 3; ++step) {
    arrays.Begin(StepArrays::BytesFor<int32_t>(5) + StepArrays::BytesFor<double>(7));
    const StepArray<int32_t> a = arrays.Add<int32_t>(5);
    const StepArray<double> b = arrays.Add<double>(7);
    for (int i = 0; i < 5; ++i) a.host[i] = step * 10 + i;
    for (int i = 0; i < 7; ++i) b.host[i] = step + i / 8.0;
    arrays.Upload();
    std::vector<int32_t> a_there(5);
    std::vector<double> b_there(7);
    stream().Download(a_there.data(), a.device, 5 * sizeof(int32_t));
    stream().Download(b_there.data(), b.device, 7 * sizeof(double));
    EXPECT_THAT(a_there, testing::ElementsAre(step * 10, step * 10 + 1, step * 10 + 2,
                                              step * 10 + 3, step * 10 + 4));
    EXPECT_EQ(b_there[6], step + 6 / 8.0);
  }
}

TEST_P(StepArraysTest, ACpusGrow) {
  if (on_gpu()) GTEST_SKIP() << "a GPU's are reserved at start";
  StepArrays arrays(stream());
  arrays.Begin(StepArrays::BytesFor<int32_t>(100000));
  const StepArray<int32_t> a = arrays.Add<int32_t>(100000);
  a.host[99999] = 7;
  arrays.Upload();
  EXPECT_EQ(a.device[99999], 7);
}

}  // namespace
}  // namespace lexico::worker

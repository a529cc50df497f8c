// Ops of a GPU recorded and enqueued again (Stream::Record, Replay). Skipped, with the reason,
// where there is no GPU.
#include <gtest/gtest.h>

#include <csignal>
#include <memory>
#include <vector>

#include "kernels/api/elementwise.h"
#include "kernels/api/host_buffer.h"
#include "kernels/api/stream.h"
#include "tests/kernels/device_array.h"

namespace lexico::kernels {
namespace {

using tests::DeviceArray;

using Floats = std::vector<float>;

class GraphTest : public testing::Test {
 protected:
  void SetUp() override {
    auto stream = Stream::Cuda({});
    if (!stream.ok()) GTEST_SKIP() << stream.status();
    stream_ = *std::move(stream);
  }
  // y = RmsNorm(x), n_rows of 4.
  void Norm(const DeviceArray<float>& x, const DeviceArray<float>& weight,
            const DeviceArray<float>& y, int64_t n_rows) const {
    RmsNorm(x.View({n_rows, 4}), weight.View({4}), 0, y.View({n_rows, 4}), stream_);
  }

  Stream stream_ = Stream::Cpu(1);
};

TEST_F(GraphTest, OpsRunWhenTheyAreReplayedWithWhatLiesThereThen) {
  const DeviceArray<float> x(Floats{2, 2, 2, 2}, stream_);
  const DeviceArray<float> weight(Floats{1, 2, 3, 4}, stream_);
  const DeviceArray<float> y(Floats(4, 0), stream_);
  HostBuffer from = *HostBuffer::Allocate(4 * sizeof(float), stream_);
  HostBuffer to = *HostBuffer::Allocate(4 * sizeof(float), stream_);
  const std::unique_ptr<Graph> graph = stream_.Record([&] {
    stream_.UploadAsync(x.data(), from.as<float>(), 4 * sizeof(float));
    Norm(x, weight, y, 1);
    stream_.DownloadAsync(to.as<float>(), y.data(), 4 * sizeof(float));
  });
  ASSERT_NE(graph, nullptr);
  stream_.Synchronize();
  EXPECT_EQ(y.Values(), Floats(4, 0));  // recorded, not run
  for (const float value : {3.0f, -5.0f}) {
    std::fill_n(from.as<float>(), 4, value);
    stream_.Replay(*graph);
    stream_.Synchronize();
    const float sign = value > 0 ? 1 : -1;
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(to.as<float>()[i], sign * static_cast<float>(i + 1)) << value;
    }
  }
}

// Kernels that overlap wait for one another: each of a long chain reads what the last one wrote.
TEST_F(GraphTest, AChainOfKernelsIsInOrder) {
  constexpr int kRows = 1000;
  const DeviceArray<float> x(Floats(4 * kRows, 1), stream_);
  const DeviceArray<float> weight(Floats(4, 2), stream_);
  const DeviceArray<float> y(Floats(4 * kRows, 0), stream_);
  const auto chain = [&] {
    for (int i = 0; i < 200; ++i) {
      Norm(x, weight, y, kRows);
      Norm(y, weight, x, kRows);
    }
    Convert(x.View({4 * kRows}), y.View({4 * kRows}), stream_);
  };
  const std::unique_ptr<Graph> graph = stream_.Record(chain);
  stream_.Replay(*graph);
  EXPECT_EQ(y.Values(), Floats(4 * kRows, 2));
  chain();
  EXPECT_EQ(y.Values(), Floats(4 * kRows, 2));
}

// Two streams that wait for each other, op by op and as one graph.
TEST_F(GraphTest, StreamsThatWaitForOneAnotherAreInOrder) {
  constexpr int kRows = 1000;
  const Stream beside = stream_.Sibling();
  const DeviceArray<float> x(Floats(4 * kRows, 1), stream_);
  const DeviceArray<float> weight(Floats(4, 2), stream_);
  const DeviceArray<float> y(Floats(4 * kRows, 0), stream_);
  const auto ops = [&] {
    for (int i = 0; i < 50; ++i) {
      Norm(x, weight, y, kRows);
      beside.WaitFor(stream_);
      beside.CopyWithin(x.data(), y.data(), 4 * kRows * sizeof(float));
      RmsNorm(x.View({kRows, 4}), weight.View({4}), 0, y.View({kRows, 4}), beside);
      stream_.WaitFor(beside);
    }
    Convert(y.View({4 * kRows}), x.View({4 * kRows}), stream_);
  };
  const std::unique_ptr<Graph> graph = stream_.Record(ops);
  stream_.Replay(*graph);
  EXPECT_EQ(x.Values(), Floats(4 * kRows, 2));
  ops();
  EXPECT_EQ(y.Values(), Floats(4 * kRows, 2));
}

TEST_F(GraphTest, AnOldGraphBecomesTheNewOneOrMakesRoomForIt) {
  const DeviceArray<float> x(Floats(8, 1), stream_);
  const DeviceArray<float> weight(Floats(4, 2), stream_);
  const DeviceArray<float> y(Floats(8, 0), stream_);
  const DeviceArray<float> z(Floats(8, 0), stream_);
  std::unique_ptr<Graph> graph = stream_.Record([&] { Norm(x, weight, y, 1); });
  const Graph* const first = graph.get();
  // The same kernel with another grid and other arrays.
  graph = stream_.Record([&] { Norm(x, weight, z, 2); }, std::move(graph));
  EXPECT_EQ(graph.get(), first);
  stream_.Replay(*graph);
  EXPECT_EQ(y.Values(), Floats(8, 0));
  EXPECT_EQ(z.Values(), Floats(8, 2));
  // More kernels.
  graph = stream_.Record(
      [&] {
        Norm(x, weight, z, 2);
        stream_.CopyWithin(y.data(), z.data(), 8 * sizeof(float));
      },
      std::move(graph));
  ASSERT_NE(graph, nullptr);
  stream_.Replay(*graph);
  EXPECT_EQ(y.Values(), Floats(8, 2));
}

class GraphDeathTest : public GraphTest {
 protected:
  // A GPU's context does not survive fork.
  GraphDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(GraphDeathTest, AKernelThatFailsInAGraphEndsTheProcess) {
  const auto fail = [this] {
    const std::unique_ptr<Graph> graph = stream_.Record([this] {
      Convert({reinterpret_cast<void*>(256), DType::kBF16, {64}},
              {reinterpret_cast<float*>(512), {64}}, stream_);
    });
    stream_.Replay(*graph);
    stream_.Synchronize();
  };
  EXPECT_EXIT(fail(), testing::KilledBySignal(SIGABRT),
              "cudaStreamSynchronize.stream_.: cudaErrorIllegalAddress");
}

TEST_F(GraphDeathTest, WhatCannotBeRecordedEndsTheProcess) {
  EXPECT_EXIT((void)stream_.Record([this] { stream_.Synchronize(); }),
              testing::KilledBySignal(SIGABRT),
              "cudaStreamSynchronize.stream_.: cudaErrorStreamCaptureUnsupported");
}

}  // namespace
}  // namespace lexico::kernels

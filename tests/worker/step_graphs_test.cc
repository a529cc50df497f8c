// Which steps are recorded and replayed, and what makes a structure, with a device that writes down
// what it is given. Graphs of a GPU: tests/kernels/graph_test.cc, engine_device_test.cc.
#include "worker/engine/step_graphs.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "worker/engine/page_attention.h"

namespace lexico::worker {
namespace {

KvLayout Layout(const char* profile) {
  return MakeKvLayout({.n_layers = 2, .n_kv_heads = 2, .head_dim = 16},
                      *base::ParseProfile(profile), 64);
}

StepStructure Structure(std::vector<int64_t> page_begin = {0, 8}, int n_top = 1,
                        const char* profile = "paper-s4") {
  return {.n_top = n_top,
          .groups = {{.layout = Layout(profile), .page_begin = std::move(page_begin)}}};
}

TEST(SessionPagesTest, PlacesGrowInStepsOfAnEighthAtMost) {
  EXPECT_EQ(SessionPages::PlaceOf(0), 0);
  EXPECT_EQ(SessionPages::PlaceOf(1), 8);
  EXPECT_EQ(SessionPages::PlaceOf(8), 8);
  EXPECT_EQ(SessionPages::PlaceOf(9), 16);
  EXPECT_EQ(SessionPages::PlaceOf(512), 512);
  EXPECT_EQ(SessionPages::PlaceOf(513), 576);
  int64_t before = 0;
  for (int64_t n = 1; n < 5000; ++n) {
    const int64_t place = SessionPages::PlaceOf(n);
    ASSERT_GE(place, n);
    ASSERT_LE(place, SessionPages::PagesMax(n));
    ASSERT_GE(place, before);
    ASSERT_EQ(SessionPages::PlaceOf(place), place);
    before = place;
  }
}

TEST(StepStructureTest, AllThatArgumentsFollowFromTellsStructuresApart) {
  EXPECT_EQ(Structure(), Structure());
  EXPECT_NE(Structure(), Structure({0, 16}));
  EXPECT_NE(Structure(), Structure({0, 8, 16}));
  EXPECT_NE(Structure(), Structure({0, 8}, 2));
  EXPECT_NE(Structure(), Structure({0, 8}, 1, "paper-s8"));
  EXPECT_NE(Structure(), Structure({0, 8}, 1, "dense"));
  StepStructure two = Structure();
  two.groups.push_back(two.groups[0]);
  EXPECT_NE(Structure(), two);
}

// Ops are numbers, which a device notes when they run.
class NotingDevice final : public kernels::Device {
 public:
  struct Numbers final : kernels::Graph {
    std::vector<int> ops;
  };

  void Run(int op) { (recording_ != nullptr ? recording_->ops : ran).push_back(op); }
  std::unique_ptr<kernels::Graph> Record(absl::FunctionRef<void()> ops,
                                         std::unique_ptr<kernels::Graph> old) override {
    n_used_up += old != nullptr ? 1 : 0;
    if (is_full) return nullptr;
    auto graph = std::make_unique<Numbers>();
    recording_ = graph.get();
    ops();
    recording_ = nullptr;
    return graph;
  }
  void Replay(const kernels::Graph& graph) override {
    for (const int op : static_cast<const Numbers&>(graph).ops) Run(op);
  }

  const std::string& name() const override { return name_; }
  void* Allocate(size_t) override { return nullptr; }
  size_t FreeBytes() const override { return 0; }
  void Free(void*) override {}
  void CopyFromHost(void*, const void*, size_t) override {}
  void CopyToHost(void*, const void*, size_t) override {}
  void* AllocateHost(size_t) override { return nullptr; }
  void FreeHost(void*) override {}
  void UploadAsync(void*, const void*, size_t) override {}
  void DownloadAsync(void*, const void*, size_t) override {}
  void CopyWithin(void*, const void*, size_t) override {}
  void Zero(void*, size_t) override {}
  std::unique_ptr<kernels::DeviceEvent> NewEvent() override { return nullptr; }
  void Synchronize() override {}
  void WaitFor(kernels::Device&) override {}
  std::vector<double> ReplayMicroseconds(const std::function<void()>&, int) override { return {}; }

  bool is_full = false;
  int n_used_up = 0;  // old graphs
  std::vector<int> ran;

 private:
  const std::string name_ = "test:0";
  Numbers* recording_ = nullptr;
};

class StepGraphsTest : public testing::Test {
 protected:
  // A step of structure `i`, whose ops run once however it is enqueued.
  StepLaunch Step(int i) {
    device_.ran.clear();
    const StepLaunch launch = graphs_.Enqueue(Structure({0, 8 * (i + 1)}), [&] { device_.Run(i); });
    EXPECT_EQ(device_.ran, std::vector<int>{i});
    return launch;
  }
  // Steps until it is recorded.
  void Record(int i) {
    for (int n = 1; n < StepGraphs::kStepsInARow; ++n) EXPECT_EQ(Step(i), StepLaunch::kOps);
    EXPECT_EQ(Step(i), StepLaunch::kRecorded);
  }

  NotingDevice device_;
  StepGraphs graphs_{&device_};
};

TEST_F(StepGraphsTest, AStructureIsRecordedWhenItHasLasted) {
  using enum StepLaunch;
  for (int n = 1; n < StepGraphs::kStepsInARow; ++n) EXPECT_EQ(Step(0), kOps);
  EXPECT_EQ(Step(1), kOps);  // not in a row
  Record(0);
  EXPECT_EQ(Step(0), kReplayed);
  EXPECT_EQ(Step(1), kOps);
  EXPECT_EQ(Step(0), kReplayed);
}

TEST_F(StepGraphsTest, TheGraphThatServedLongestAgoMakesRoom) {
  constexpr int kStructures = StepGraphs::kGraphsMax + 2;
  using enum StepLaunch;
  for (int i = 0; i < kStructures; ++i) {
    Record(i);
    EXPECT_EQ(Step(i), kReplayed);
  }
  EXPECT_EQ(device_.n_used_up, 2);
  EXPECT_EQ(Step(0), kOps);  // gone
  EXPECT_EQ(Step(2), kReplayed);
  EXPECT_EQ(Step(kStructures - 1), kReplayed);
  Record(0);
  EXPECT_EQ(Step(2), kReplayed);
  EXPECT_EQ(Step(3), kOps);  // had served longest ago
}

TEST_F(StepGraphsTest, WithoutMemoryForGraphsStepsGoOnOpByOp) {
  Record(0);
  device_.is_full = true;
  for (int n = 0; n < 3 * StepGraphs::kStepsInARow; ++n) EXPECT_EQ(Step(1), StepLaunch::kOps);
  EXPECT_EQ(Step(0), StepLaunch::kOps);
}

TEST(StepGraphsOffTest, OpsAreCalled) {
  StepGraphs graphs(nullptr);
  int n_calls = 0;
  for (int n = 0; n < 2 * StepGraphs::kStepsInARow; ++n) {
    EXPECT_EQ(graphs.Enqueue(Structure(), [&] { ++n_calls; }), StepLaunch::kOps);
  }
  EXPECT_EQ(n_calls, 2 * StepGraphs::kStepsInARow);
}

}  // namespace
}  // namespace lexico::worker

// What the coordinator keeps, over times that real clocks do not reach in a test.
#include "coordinator/service/cluster.h"

#include <gtest/gtest.h>

#include "coordinator/state/local_state.h"
#include "tests/support/status_matchers.h"

namespace lexico::coord {
namespace {

using tests::IsOk;
using tests::StatusIs;

class ClusterTest : public testing::Test {
 protected:
  void Register(const std::string& worker_id) {
    const Registration registration{.worker_id = worker_id,
                                    .address = "127.0.0.1:1",
                                    .lease_id = worker_id + "-lease",
                                    .model = {.name = "m", .identity = "i"}};
    ASSERT_THAT(cluster_.Register(registration, v1::ModelInfo()), IsOk());
  }

  base::FakeClock clock_;
  base::Metrics metrics_{"coordinator"};
  std::unique_ptr<LocalState> state_ = *LocalState::Open({});
  ClusterOptions options_;
  Cluster cluster_{options_, *state_, metrics_, clock_};
};

TEST_F(ClusterTest, ConnectionOfAWorkerThatIsGoneForGoodIsClosed) {
  Register("w1");
  clock_.Advance(2 * options_.lease);
  cluster_.Tick();
  EXPECT_THAT(cluster_.StubOf("w1"), IsOk()) << "lost, and may come back";
  clock_.Advance(Registry::kLostKept);
  Register("w2");
  cluster_.Tick();
  EXPECT_THAT(cluster_.StubOf("w1"), StatusIs(absl::StatusCode::kUnavailable, "w1 left"));
  EXPECT_THAT(cluster_.StubOf("w2"), IsOk());
}

}  // namespace
}  // namespace lexico::coord

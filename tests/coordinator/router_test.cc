#include "coordinator/router/router.h"

#include <gtest/gtest.h>

#include <random>

namespace lexico::coord {
namespace {

class RouterTest : public testing::Test {
 protected:
  Worker& Add(const std::string& id) {
    Worker& worker = workers_[id];
    worker.worker_id = id;
    worker.model = {.name = "m", .identity = "i"};
    worker.load = {.n_pages_free = 100, .n_pages = 100, .n_waiting_max = 8};
    return worker;
  }
  RouteRequest ForSession(Placement placement, const std::string& worker) {
    session_.session_id = "s";
    session_.placement = placement;
    session_.worker = worker;
    return {.session = &session_, .model = "m", .model_identity = "i"};
  }
  std::string Chosen(const RouteRequest& request) {
    const RouteResult result = ChooseWorker(request, workers_);
    const auto* route = std::get_if<Route>(&result);
    return route == nullptr ? "" : route->worker_id;
  }
  RouteReason Reason(const RouteRequest& request) {
    return std::get<Route>(ChooseWorker(request, workers_)).reason;
  }
  NoRoute None(const RouteRequest& request) {
    return std::get<NoRoute>(ChooseWorker(request, workers_));
  }

  const RouteRequest new_session_{.model = "m"};
  std::map<std::string, Worker> workers_;
  Session session_;
};

TEST_F(RouterTest, HolderServesItsSessionEvenWhenFullOrDraining) {
  Add("w1").load.n_pages_free = 0;
  Add("w2");
  workers_["w1"].state = WorkerState::kDraining;
  const RouteRequest request = ForSession(Placement::kResident, "w1");
  EXPECT_EQ(Chosen(request), "w1");
  EXPECT_EQ(Reason(request), RouteReason::kAffinity);
}

TEST_F(RouterTest, LostHolderIsNotChosen) {
  Add("w1").state = WorkerState::kLost;
  Add("w2");
  EXPECT_EQ(Chosen(ForSession(Placement::kRecovering, "w1")), "w2");
  EXPECT_EQ(Reason(ForSession(Placement::kRecovering, "w1")), RouteReason::kRecover);
  EXPECT_EQ(Reason(ForSession(Placement::kOffloaded, "")), RouteReason::kRestore);
  EXPECT_EQ(Reason(new_session_), RouteReason::kCold);
}

TEST_F(RouterTest, KeeperOfASessionIsChosenUnlessSomethingKeepsItFromThat) {
  Add("w1").load.n_pages_free = 10;
  Add("w2");
  RouteRequest request = ForSession(Placement::kRecovering, "");
  EXPECT_EQ(Chosen(request), "w2");
  request.keeper = "w1";
  EXPECT_EQ(Chosen(request), "w1");
  EXPECT_EQ(Reason(request), RouteReason::kRecover);
  request.excluded = {"w1"};
  EXPECT_EQ(Chosen(request), "w2");
  request.excluded.clear();
  workers_["w1"].unreachable = true;
  EXPECT_EQ(Chosen(request), "w2");
  request.keeper = "gone";
  EXPECT_EQ(Chosen(request), "w2");
}

TEST_F(RouterTest, LeavingItsHolderGoesElsewhereByLoad) {
  Add("w1");
  RouteRequest request = ForSession(Placement::kResident, "w1");
  request.leave_holder = true;
  EXPECT_EQ(None(request).cause, NoRouteCause::kNotReady);
  Add("w2").load.n_pages_free = 1;
  EXPECT_EQ(Chosen(request), "w2");
  EXPECT_EQ(Reason(request), RouteReason::kLoad);
}

TEST_F(RouterTest, FreePagesCountBeforeQueue) {
  Add("w1").load.n_pages_free = 50;
  Add("w2").load.n_running = 5;
  EXPECT_EQ(Chosen(new_session_), "w2");
}

TEST_F(RouterTest, QueueDecidesBetweenNearlyEqualPools) {
  Add("w1").load.n_running = 1;
  Add("w2").load.n_pages_free = 98;
  workers_["w1"].load.n_pages_free = 99;
  EXPECT_EQ(Chosen(new_session_), "w2");
}

TEST_F(RouterTest, SessionsThenIdsBreakTies) {
  Add("w2").n_sessions = 1;
  Add("w1").n_sessions = 1;
  EXPECT_EQ(Chosen(new_session_), "w1");
  workers_["w1"].n_sessions = 2;
  EXPECT_EQ(Chosen(new_session_), "w2");
}

TEST_F(RouterTest, CauseSaysWhatACallerCanDo) {
  EXPECT_EQ(None(new_session_).cause, NoRouteCause::kNoWorker);
  Add("w1").model.name = "other";
  EXPECT_EQ(None(new_session_).cause, NoRouteCause::kNoModel);
  Add("w2").state = WorkerState::kDraining;
  EXPECT_EQ(None(new_session_).cause, NoRouteCause::kNotReady);
  Add("w3").load.n_pages_free = 0;
  EXPECT_EQ(None(new_session_).cause, NoRouteCause::kFull);
  const std::string text = None(new_session_).text;
  EXPECT_NE(text.find("w1: serves model other"), std::string::npos) << text;
  EXPECT_NE(text.find("w2: draining"), std::string::npos) << text;
  EXPECT_NE(text.find("w3: no free page (0 of 100)"), std::string::npos) << text;
}

TEST_F(RouterTest, OtherWeightsOfTheSameNameAreAnotherModel) {
  Add("w1").model.identity = "newer";
  EXPECT_EQ(None(ForSession(Placement::kOffloaded, "")).cause, NoRouteCause::kNoModel);
  EXPECT_EQ(Chosen(new_session_), "w1");
}

TEST_F(RouterTest, FullQueueIsFull) {
  Add("w1").load.n_waiting = 8;
  EXPECT_EQ(None(new_session_).cause, NoRouteCause::kFull);
  EXPECT_EQ(Obstacle(workers_["w1"], "m", "i"), "queue full (8 of 8)");
}

TEST_F(RouterTest, ExcludedAndUnreachableAreNotChosen) {
  Add("w1");
  Add("w2").unreachable = true;
  RouteRequest request = new_session_;
  request.excluded = {"w1"};
  EXPECT_EQ(None(request).cause, NoRouteCause::kNotReady);
}

// Whatever the cluster looks like: the choice is allowed, it is the same twice, and there is none
// only if nobody could take the session.
TEST_F(RouterTest, RandomClustersNeverGetAForbiddenWorker) {
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    std::mt19937_64 random(seed);
    const auto below = [&](int n) { return static_cast<int>(random() % static_cast<uint64_t>(n)); };
    workers_.clear();
    const int n_workers = below(5);
    for (int i = 0; i < n_workers; ++i) {
      Worker& worker = Add("w" + std::to_string(i));
      worker.state = static_cast<WorkerState>(below(4));
      worker.unreachable = below(4) == 0;
      worker.model.name = below(4) == 0 ? "other" : "m";
      worker.model.identity = below(4) == 0 ? "j" : "i";
      worker.load.n_pages_free = below(3) * 30;
      worker.load.n_waiting = below(9);
      worker.load.n_running = below(4);
      worker.n_sessions = below(3);
    }
    RouteRequest request =
        ForSession(static_cast<Placement>(below(3)), "w" + std::to_string(below(5)));
    request.leave_holder = below(4) == 0;
    if (below(3) == 0) request.excluded.insert("w" + std::to_string(below(5)));
    const RouteResult result = ChooseWorker(request, workers_);
    const std::string chosen = Chosen(request);
    SCOPED_TRACE(testing::Message() << "seed " << seed << " chose '" << chosen << "'");
    EXPECT_EQ(chosen, Chosen(request));
    if (!chosen.empty()) {
      const Worker& worker = workers_.at(chosen);
      EXPECT_NE(worker.state, WorkerState::kLost);
      EXPECT_FALSE(request.excluded.contains(chosen));
      if (request.leave_holder) {
        EXPECT_NE(chosen, session_.worker);
      }
      if (std::get<Route>(result).reason != RouteReason::kAffinity) {
        EXPECT_EQ(Obstacle(worker, "m", "i"), "");
      } else {
        EXPECT_EQ(chosen, session_.worker);
        EXPECT_EQ(session_.placement, Placement::kResident);
      }
    } else {
      for (const auto& [id, worker] : workers_) {
        EXPECT_TRUE(!Obstacle(worker, "m", "i").empty() || request.excluded.contains(id) ||
                    (request.leave_holder && id == session_.worker))
            << id;
      }
    }
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace lexico::coord

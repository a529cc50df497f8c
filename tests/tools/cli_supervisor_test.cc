// The supervisor of `lexico local`, over shell scripts in the place of servers.
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <thread>

#include "absl/time/clock.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tools/cli/local/plan.h"
#include "tools/cli/local/supervisor.h"

namespace lexico::cli {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;

class SupervisorTest : public testing::Test {
 protected:
  // A server that runs `script`; its flags are $1, $2, ...
  ServerSpec Script(const std::string& name, const std::string& script, int stop_rank = 0) {
    ServerSpec spec;
    spec.name = name;
    spec.program = "/bin/sh";
    spec.flags = {dir_.Write(name + ".sh", script)};
    spec.log_path = dir_.File(name + ".log");
    spec.stop_rank = stop_rank;
    return spec;
  }
  std::string Log(const std::string& name) { return tests::ReadFile(dir_.File(name + ".log")); }
  // Sends ourselves a signal in a while, as a user would.
  static std::thread SignalIn(std::chrono::milliseconds wait) {
    return std::thread([wait] {
      std::this_thread::sleep_for(wait);
      kill(getpid(), SIGTERM);
    });
  }
  // The same as soon as a log says `text`, or after 20 s.
  std::thread SignalWhen(const std::string& name, const std::string& text) {
    return std::thread([this, name, text] {
      for (int i = 0; i < 400 && Log(name).find(text) == std::string::npos; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
      }
      kill(getpid(), SIGTERM);
    });
  }

  tests::TempDir dir_;
  SupervisorOptions options_{.stop_timeout = absl::Seconds(2),
                             .backoff_min = absl::Milliseconds(20)};
};

constexpr char kServe[] = "echo ready grpc=127.0.0.1:7777 bulk=123\nexec sleep 60\n";

TEST_F(SupervisorTest, ReadyLinesTellAddresses) {
  ServerSpec spec = Script("a", kServe);
  spec.addresses = {{"--bulk_address", "bulk", "10.1.1.1:0"}};
  Supervisor supervisor(options_);
  ASSERT_THAT(supervisor.Start({spec}), IsOk());
  EXPECT_EQ(supervisor.Told("a", "grpc"), "127.0.0.1:7777");
  EXPECT_EQ(supervisor.Told("a", "bulk"), "10.1.1.1:123");
  EXPECT_EQ(supervisor.Told("a", "other"), "");
  EXPECT_EQ(supervisor.Told("b", "grpc"), "");
  EXPECT_GT(supervisor.Pid("a"), 0);
}

TEST_F(SupervisorTest, ServerThatEndsBeforeItIsReadyFailsTheStart) {
  Supervisor supervisor(options_);
  testing::internal::CaptureStderr();
  EXPECT_THAT(
      supervisor.Start({Script("good", kServe), Script("bad", "echo no such model >&2\nexit 3\n")}),
      StatusIs(StatusCode::kAborted, "bad did not start: exit code 3"));
  EXPECT_NE(testing::internal::GetCapturedStderr().find("| no such model"), std::string::npos);
}

TEST_F(SupervisorTest, MissingProgramIsNamed) {
  ServerSpec spec = Script("a", kServe);
  spec.program = "/nowhere/lexico-worker";
  Supervisor supervisor(options_);
  EXPECT_THAT(supervisor.Start({spec}), StatusIs(StatusCode::kNotFound, "/nowhere/lexico-worker"));
}

TEST_F(SupervisorTest, DeadServerIsStartedAgainAtTheToldAddress) {
  // Dies at once the first time it is ready; its flags go to the log.
  ServerSpec spec = Script("a",
                           "echo start \"$@\"\n"
                           "echo ready grpc=127.0.0.1:4711\n"
                           "[ -e " +
                               dir_.File("again") +
                               " ] && exec sleep 60\n"
                               "touch " +
                               dir_.File("again") +
                               "\n"
                               "exit 5\n");
  spec.addresses = {{"--address", "grpc", "127.0.0.1:0"}};
  Supervisor supervisor(options_);
  ASSERT_THAT(supervisor.Start({spec}), IsOk());
  testing::internal::CaptureStderr();
  std::thread signal = SignalWhen("a", "start --address=127.0.0.1:4711\n");
  EXPECT_THAT(supervisor.Run(), IsOk());
  signal.join();
  supervisor.Stop();
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("a (pid"), std::string::npos);
  EXPECT_NE(said.find("exit code 5"), std::string::npos);
  EXPECT_NE(Log("a").find("start --address=127.0.0.1:0\n"), std::string::npos);
  EXPECT_NE(Log("a").find("start --address=127.0.0.1:4711\n"), std::string::npos);
}

TEST_F(SupervisorTest, WithoutRestartADeadServerEndsTheRun) {
  options_.restart = false;
  Supervisor supervisor(options_);
  ASSERT_THAT(supervisor.Start({Script("a", "echo ready x=1:1\nsleep 0.2\nkill -9 $$\n")}), IsOk());
  testing::internal::CaptureStderr();
  EXPECT_THAT(supervisor.Run(), StatusIs(StatusCode::kAborted, "signal 9"));
  testing::internal::GetCapturedStderr();
}

TEST_F(SupervisorTest, ServersStopInTheOrderOfTheirRanks) {
  const std::string order = dir_.File("order");
  const auto script = [&](const std::string& name) {
    return "trap 'echo " + name + " >> " + order + "; exit 0' TERM\necho ready x=1:1\n" +
           "while :; do sleep 0.05; done\n";
  };
  Supervisor supervisor(options_);
  ASSERT_THAT(
      supervisor.Start({Script("store", script("store"), 2), Script("worker", script("worker"), 0),
                        Script("coordinator", script("coordinator"), 1)}),
      IsOk());
  supervisor.Stop();
  EXPECT_EQ(tests::ReadFile(order), "worker\ncoordinator\nstore\n");
}

TEST_F(SupervisorTest, ServerThatIgnoresSigtermIsKilledAtTheTimeOut) {
  options_.stop_timeout = absl::Milliseconds(300);
  Supervisor supervisor(options_);
  ASSERT_THAT(supervisor.Start(
                  {Script("a", "trap '' TERM\necho ready x=1:1\nwhile :; do sleep 0.05; done\n")}),
              IsOk());
  const pid_t pid = supervisor.Pid("a");
  testing::internal::CaptureStderr();
  supervisor.Stop();
  EXPECT_NE(testing::internal::GetCapturedStderr().find("is killed"), std::string::npos);
  EXPECT_NE(kill(pid, 0), 0);
}

TEST(LocalPlanTest, WorkersShareMemoryAndCoresAndKnowTheOthers) {
  LocalOptions options;
  options.model = "/m";
  options.n_workers = 2;
  const auto workers = Workers(options, "/bin", "/data", "c:1", "s:2", 1000, 8);
  ASSERT_EQ(workers.size(), 2u);
  EXPECT_EQ(workers[1].name, "worker-2");
  EXPECT_EQ(workers[1].program, "/bin/lexico-worker");
  const auto has = [&](const std::string& flag) {
    return std::count(workers[1].flags.begin(), workers[1].flags.end(), flag) == 1;
  };
  EXPECT_TRUE(has("--kv_memory=200"));
  EXPECT_TRUE(has("--threads=4"));
  EXPECT_TRUE(has("--coordinator=c:1"));
  EXPECT_TRUE(has("--store=s:2"));
  EXPECT_TRUE(has("--worker_id=worker-2"));
}

TEST(LocalPlanTest, WorkersRunWhereTheirDevicesAre) {
  LocalOptions options;
  options.devices = {"cuda:0", "cpu"};
  ASSERT_THAT(ResolveWorkers(&options), IsOk());
  EXPECT_EQ(options.n_workers, 2);
  const auto workers = Workers(options, "/bin", "/data", "c:1", "s:2", 1000, 8);
  const auto has = [&](size_t worker, const std::string& start) {
    return std::ranges::any_of(workers[worker].flags,
                               [&](const std::string& flag) { return flag.starts_with(start); });
  };
  EXPECT_TRUE(has(0, "--device=cuda:0"));
  EXPECT_FALSE(has(0, "--kv_memory"));  // the worker takes what is left of the GPU
  EXPECT_TRUE(has(1, "--device=cpu"));
  EXPECT_TRUE(has(1, "--kv_memory=200"));
}

TEST(LocalPlanTest, AWorkerMayHaveSeveralGpus) {
  LocalOptions options;
  options.devices = {"cuda:0", "cuda:2"};
  options.tensor_parallel = 2;
  ASSERT_THAT(ResolveWorkers(&options), IsOk());
  const auto workers = Workers(options, "/bin", "/data", "c:1", "s:2", 1000, 8);
  ASSERT_EQ(workers.size(), 2u);
  for (const ServerSpec& worker : workers) {
    EXPECT_TRUE(std::ranges::count(worker.flags, "--tensor_parallel=2")) << worker.name;
  }
  options.devices = {"cuda:0", "cuda:1"};
  EXPECT_THAT(ResolveWorkers(&options),
              StatusIs(StatusCode::kInvalidArgument, "2 workers share cuda:0"));
}

TEST(LocalPlanTest, NumbersOfWorkersFollowFromTheDevices) {
  const auto resolved = [](std::vector<std::string> devices, int n_workers = 0,
                           std::string kv_memory = "") -> absl::StatusOr<int> {
    LocalOptions options;
    options.devices = std::move(devices);
    options.n_workers = n_workers;
    options.kv_memory = std::move(kv_memory);
    const absl::Status status = ResolveWorkers(&options);
    if (!status.ok()) return status;
    return options.n_workers;
  };
  EXPECT_EQ(*resolved({"cpu"}), 2);
  EXPECT_EQ(*resolved({"cuda"}), 1);
  EXPECT_EQ(*resolved({"cpu"}, 5), 5);
  EXPECT_EQ(*resolved({"cuda"}, 2, "8GiB"), 2);
  EXPECT_THAT(resolved({"cuda"}, 2), StatusIs(StatusCode::kInvalidArgument, "2 workers share"));
  EXPECT_THAT(resolved({"cuda:1", "cuda:1"}),
              StatusIs(StatusCode::kInvalidArgument, "2 workers share cuda:1"));
  EXPECT_THAT(resolved({"cuda:0", "cuda:1"}, 3),
              StatusIs(StatusCode::kInvalidArgument, "2 devices for 3 workers"));
}

TEST(LocalPlanTest, DataDirIsLockedAgainstASecondSupervisor) {
  const tests::TempDir dir;
  ASSERT_THAT(PrepareDataDir(dir.File("d")), IsOk());
  EXPECT_THAT(PrepareDataDir(dir.File("d")),
              StatusIs(StatusCode::kFailedPrecondition, "in use by another"));
}

TEST(LocalPlanTest, ModelIsFoundAboveTheProgram) {
  const tests::TempDir dir;
  std::filesystem::create_directories(dir.File("models/lexico-20m"));
  std::filesystem::create_directories(dir.File("build/dev/bin"));
  dir.Write("models/lexico-20m/config.json", "{}");
  const auto found = FindEmbeddedModel(dir.File("build/dev/bin"));
  ASSERT_THAT(found, IsOk());
  EXPECT_EQ(*found, dir.File("models/lexico-20m"));
}

}  // namespace
}  // namespace lexico::cli

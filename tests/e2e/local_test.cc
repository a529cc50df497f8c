// `lexico local` and the command line client, as a user runs them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/e2e/cluster.h"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"

namespace lexico::tests {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr absl::Duration kSoon = absl::Seconds(120);  // a busy machine is slow

struct Result {
  int exit_code = -1;
  std::string out;
  std::string err;
};

Result RunLexico(std::vector<std::string> arguments, const std::string& input = "") {
  arguments.insert(arguments.begin(), Program("lexico"));
  Process process(arguments, input);
  Result result;
  result.exit_code = process.WaitForExit(kSoon);
  result.out = process.out();
  result.err = process.err();
  return result;
}

// A running `lexico local --port 0 --json`.
class Local {
 public:
  explicit Local(const std::vector<std::string>& flags) {
    std::vector<std::string> argv = {Program("lexico"), "local",  "--port",  "0",       "--json",
                                     "--kv-memory",     "256MiB", "--model", ModelDir()};
    argv.insert(argv.end(), flags.begin(), flags.end());
    process_ = std::make_unique<Process>(argv);
    const std::string line = process_->WaitForLine("{", kSoon);
    EXPECT_NE(process_->WaitForLine("ready", kSoon), "") << process_->err();
    info_ = json::parse(line, nullptr, false);
  }

  Process& process() { return *process_; }
  std::string server() const { return info_.value("server", ""); }
  std::string data_dir() const { return info_.value("data_dir", ""); }
  pid_t Pid(const std::string& name) const {
    for (const json& server : info_["servers"]) {
      if (server["name"] == name) return server["pid"];
    }
    return -1;
  }
  Result Lexico(std::vector<std::string> arguments, const std::string& input = "") {
    arguments.insert(arguments.end(), {"--server", server()});
    return RunLexico(arguments, input);
  }
  int Stop() {
    process_->Signal(SIGTERM);
    return process_->WaitForExit(kSoon);
  }

 private:
  std::unique_ptr<Process> process_;
  json info_;
};

bool IsAlive(pid_t pid) { return kill(pid, 0) == 0; }

TEST(LocalTest, SessionsLiveOnInTheDataDir) {
  const TempDir dir;
  const TestDocument document = MakeTestDocument(4000, 2, 51);
  const std::string file = dir.Write("document.txt", document.text);
  const std::string data = dir.File("data");
  std::string first_answer;
  {
    Local local({"--data-dir", data});
    const Result created = local.Lexico({"session", "create", "--id", "notes"});
    ASSERT_EQ(created.exit_code, 0) << created.err;
    EXPECT_EQ(created.out, "notes\n");
    const Result appended = local.Lexico({"session", "append", "notes", file, "--json"});
    ASSERT_EQ(appended.exit_code, 0) << appended.err;
    EXPECT_GT(json::parse(appended.out)["usage"]["n_prompt_tokens"], 500);
    const Result asked = local.Lexico({"ask", "notes", document.questions[0], "--json"});
    ASSERT_EQ(asked.exit_code, 0) << asked.err;
    first_answer = json::parse(asked.out)["text"];
    EXPECT_THAT(first_answer, HasSubstr(document.answers[0]));
    const Result shown = local.Lexico({"session", "show", "notes"});
    EXPECT_THAT(shown.out, HasSubstr("% of FP16"));
    EXPECT_THAT(local.Lexico({"session", "list"}).out, HasSubstr("notes"));
    const Result workers = local.Lexico({"worker", "list", "--json"});
    EXPECT_EQ(json::parse(workers.out)["workers"].size(), 2u);
    EXPECT_THAT(local.Lexico({"models"}).out, HasSubstr("lexico-20m"));
    const std::vector<pid_t> pids = {local.Pid("store"), local.Pid("coordinator"),
                                     local.Pid("worker-1"), local.Pid("worker-2")};
    EXPECT_EQ(local.Stop(), 0) << local.process().err();
    for (const pid_t pid : pids) EXPECT_FALSE(IsAlive(pid)) << pid;
  }
  Local local({"--data-dir", data, "--workers", "1"});
  const Result shown = local.Lexico({"session", "show", "notes", "--json"});
  ASSERT_EQ(shown.exit_code, 0) << shown.err;
  EXPECT_EQ(json::parse(shown.out)["state"], "offloaded");
  const Result verified = local.Lexico({"store", "verify", "--json"});
  ASSERT_EQ(verified.exit_code, 0) << verified.err;
  const Result store = local.Lexico({"store", "status", "--json"});
  ASSERT_EQ(store.exit_code, 0) << store.err;
  const json status = json::parse(store.out);
  EXPECT_EQ(status["n_manifests"], 1);
  EXPECT_GT(status["tiers"][1]["n_pages"], 10);
  EXPECT_FALSE(status["scrub_time"].is_null());
  EXPECT_THAT(local.Lexico({"store", "status"}).out, HasSubstr("disk"));
  EXPECT_THAT(local.Lexico({"store", "verify", "--rate", "1GiB"}).out, HasSubstr(" 0 damaged"));
  const Result asked = local.Lexico({"ask", "notes", document.questions[1]});
  ASSERT_EQ(asked.exit_code, 0) << asked.err;
  EXPECT_THAT(asked.out, HasSubstr(document.answers[1]));
  EXPECT_EQ(local.Lexico({"session", "delete", "notes"}).exit_code, 0);
  EXPECT_EQ(local.Lexico({"session", "show", "notes"}).exit_code, 1);
}

TEST(LocalTest, ASessionIsDemotedAndStaysSo) {
  const TempDir dir;
  const TestDocument document = MakeTestDocument(4000, 2, 53);
  const std::string file = dir.Write("document.txt", document.text);
  Local local({"--workers", "2"});
  const Result created = local.Lexico({"session", "create", "--id", "notes", "--profile",
                                       "paper-s24", "--min-profile", "paper-s8"});
  ASSERT_EQ(created.exit_code, 0) << created.err;
  ASSERT_EQ(local.Lexico({"session", "append", "notes", file}).exit_code, 0);
  const json before = json::parse(local.Lexico({"session", "show", "notes", "--json"}).out);
  EXPECT_EQ(before["profile"], "paper-s24");
  EXPECT_EQ(before["min_profile"], "paper-s8");

  const Result up = local.Lexico({"session", "demote", "notes", "--profile", "paper-s32"});
  EXPECT_EQ(up.exit_code, 1);
  EXPECT_THAT(up.err, HasSubstr("has not fewer atoms"));
  const Result other = local.Lexico({"session", "demote", "notes", "--profile", "kv8"});
  EXPECT_EQ(other.exit_code, 1);
  EXPECT_THAT(other.err, HasSubstr("other coefficient bits"));
  EXPECT_EQ(local.Lexico({"session", "demote", "notes", "--profile", "paper"}).exit_code, 1);

  const Result demoted = local.Lexico({"session", "demote", "notes", "--profile", "paper-s12"});
  ASSERT_EQ(demoted.exit_code, 0) << demoted.err;
  EXPECT_THAT(demoted.out, HasSubstr("paper-s12, born paper-s24, at least paper-s8"));
  const auto show = [&] {
    return json::parse(local.Lexico({"session", "show", "notes", "--json"}).out);
  };
  json after = show();
  EXPECT_EQ(after["birth_profile"], "paper-s24");
  EXPECT_EQ(after["n_sealed_tokens"], before["n_sealed_tokens"]);
  const auto bytes = [](const json& session) {
    return std::stoull(session["memory"]["code_bytes"].dump());
  };
  EXPECT_EQ(2 * bytes(after), bytes(before));
  // Also where it goes, and when it was away.
  const std::string worker = after["worker"];
  ASSERT_EQ(local.Lexico({"session", "migrate", "notes"}).exit_code, 0);
  after = show();
  EXPECT_NE(after["worker"], worker);
  EXPECT_EQ(after["profile"], "paper-s12");
  EXPECT_EQ(after["birth_profile"], "paper-s24");
  ASSERT_EQ(local.Lexico({"session", "offload", "notes"}).exit_code, 0);
  ASSERT_EQ(local.Lexico({"session", "demote", "notes", "--profile", "paper-s10"}).exit_code, 0);
  EXPECT_EQ(show()["profile"], "paper-s10");
  const Result asked = local.Lexico({"ask", "notes", document.questions[0]});
  ASSERT_EQ(asked.exit_code, 0) << asked.err;
  EXPECT_THAT(asked.out, HasSubstr(document.answers[0]));
}

// Stored by a worker whose model is split in two, taken up by one that has it whole, and back.
TEST(LocalTest, SessionsMoveBetweenSplitAndWholeModels) {
  const TempDir dir;
  const TestDocument document = MakeTestDocument(4000, 3, 52);
  const std::string file = dir.Write("document.txt", document.text);
  const std::string data = dir.File("data");
  for (int run = 0; run < 3; ++run) {
    Local local({"--data-dir", data, "--workers", "1", "--tensor-parallel", run == 1 ? "1" : "2"});
    if (run == 0) {
      ASSERT_EQ(local.Lexico({"session", "create", "--id", "notes"}).exit_code, 0);
      ASSERT_EQ(local.Lexico({"session", "append", "notes", file}).exit_code, 0);
    }
    const Result asked = local.Lexico({"ask", "notes", document.questions[run], "--json"});
    ASSERT_EQ(asked.exit_code, 0) << asked.err;
    const json answer = json::parse(asked.out);
    EXPECT_THAT(answer["text"].get<std::string>(), HasSubstr(document.answers[run]));
    // The document came from its pages.
    EXPECT_LT(answer["usage"]["n_prompt_tokens"], 100);
    EXPECT_EQ(local.Stop(), 0) << local.process().err();
  }
}

TEST(LocalTest, DeadServerIsNamedAndStartedAgain) {
  Local local({"--workers", "1"});
  ASSERT_EQ(local.Lexico({"session", "create", "--id", "s"}).exit_code, 0);
  kill(local.Pid("worker-1"), SIGKILL);
  EXPECT_TRUE(Cluster::Eventually(
      [&] { return local.process().err().find("worker-1") != std::string::npos; }));
  EXPECT_THAT(local.process().err(), HasSubstr("signal 9"));
  EXPECT_TRUE(Cluster::Eventually(
      [&] {
        return local.Lexico({"ask", "s", "Hello?", "--max-new-tokens", "2"}).exit_code == 0;
      },
      30));
  const std::string data_dir = local.data_dir();
  EXPECT_TRUE(std::filesystem::exists(data_dir));
  EXPECT_EQ(local.Stop(), 0);
  EXPECT_FALSE(std::filesystem::exists(data_dir));  // a temporary one goes away
}

TEST(LocalTest, KilledSupervisorLeavesNoOrphans) {
  Local local({"--workers", "1"});
  const std::vector<pid_t> pids = {local.Pid("store"), local.Pid("coordinator"),
                                   local.Pid("worker-1")};
  local.process().Signal(SIGKILL);
  local.process().WaitForExit(kSoon);
  for (const pid_t pid : pids) {
    EXPECT_TRUE(Cluster::Eventually([&] { return !IsAlive(pid); })) << pid;
  }
  std::filesystem::remove_all(local.data_dir());
}

// No server is needed to say what is wrong with the command line.
TEST(LocalTest, WrongUsageEndsWithTwoInTextAndJson) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"--server", "foo", "session", "list"},
        {"detokenize", "abc"},
        {"detokenize", "--tokenizer", ModelDir() + "/tokenizer.json", "99999999"},
        {"--tenant", "\xff", "session", "list"},
        {"session", "lst"}}) {
    EXPECT_EQ(RunLexico(arguments).exit_code, 2);
    std::vector<std::string> with_json = arguments;
    with_json.push_back("--json");
    const Result result = RunLexico(with_json);
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_EQ(json::parse(result.err)["error"]["code"], "INVALID_ARGUMENT") << result.err;
  }
  const Result nobody = RunLexico({"--server", "127.0.0.1:1", "session", "list", "--json"});
  EXPECT_EQ(nobody.exit_code, 3);
  EXPECT_EQ(json::parse(nobody.err)["error"]["code"], "UNAVAILABLE") << nobody.err;
}

TEST(LocalTest, BadModelFolderEndsWithTheReason) {
  const TempDir dir;
  std::filesystem::copy(ModelDir(), dir.File("model"), std::filesystem::copy_options::recursive);
  std::filesystem::resize_file(dir.File("model") + "/model.safetensors", 1000000);
  setenv("TMPDIR", dir.path().c_str(), /*overwrite=*/1);
  const Result truncated =
      RunLexico({"local", "--port", "0", "--workers", "1", "--model", dir.File("model")});
  unsetenv("TMPDIR");
  EXPECT_EQ(truncated.exit_code, 1);
  EXPECT_THAT(truncated.err, HasSubstr("model.safetensors"));
  EXPECT_THAT(truncated.err, HasSubstr("worker-1 did not start: exit code 1"));
  // The logs it points to are still there.
  const std::string before = "the logs stay in ";
  const size_t at = truncated.err.rfind(before);
  ASSERT_NE(at, std::string::npos) << truncated.err;
  std::string logs = truncated.err.substr(at + before.size());
  logs.erase(logs.find('\n'));
  EXPECT_TRUE(std::filesystem::exists(logs + "/worker-1.log")) << logs;
  const Result missing = RunLexico({"local", "--port", "0", "--workers", "1", "--model", "/nowhere",
                                    "--data-dir", dir.File("data")});
  EXPECT_EQ(missing.exit_code, 1);
  EXPECT_THAT(missing.err, HasSubstr("/nowhere"));
}

TEST(LocalTest, PortInUseEndsWithTheReason) {
  const TempDir dir;
  Local local({"--workers", "1"});
  const std::string port = local.server().substr(local.server().rfind(':') + 1);
  const Result second = RunLexico({"local", "--port", port, "--workers", "1", "--model", ModelDir(),
                                   "--data-dir", dir.File("data")});
  EXPECT_EQ(second.exit_code, 1);
  EXPECT_THAT(second.err, HasSubstr(port));
  EXPECT_THAT(second.err, HasSubstr("in use"));
}

TEST(LocalTest, WorkerRefusesWrongFlagsModelsAndPorts) {
  const auto run = [](std::vector<std::string> flags) {
    flags.insert(flags.begin(), Program("lexico-worker"));
    Process process(flags);
    Result result;
    result.exit_code = process.WaitForExit(kSoon);
    result.err = process.err();
    return result;
  };
  const Result flag = run({"--modle", ModelDir()});
  EXPECT_EQ(flag.exit_code, 2);
  EXPECT_THAT(flag.err, HasSubstr("--model"));
  const Result dictionary =
      run({"--model", ModelDir(), "--dictionary", ModelDir() + "/model.safetensors"});
  EXPECT_EQ(dictionary.exit_code, 1);
  EXPECT_THAT(dictionary.err, HasSubstr("model.safetensors"));
  const Result split = run({"--model", ModelDir(), "--tensor_parallel", "3"});
  EXPECT_EQ(split.exit_code, 1);
  EXPECT_THAT(split.err, HasSubstr("over 3 devices: its 8 query heads"));
  const Result gpus = run({"--model", ModelDir(), "--device", "cuda:90", "--tensor_parallel", "2"});
  EXPECT_EQ(gpus.exit_code, 1);
  EXPECT_THAT(gpus.err, HasSubstr("2 GPUs from cuda:90 on"));
  const Result address = run({"--model", ModelDir(), "--address", "203.0.113.7:1",
                              "--kv_memory=64MiB", "--metrics_address=127.0.0.1:0"});
  EXPECT_EQ(address.exit_code, 1);
  EXPECT_THAT(address.err, HasSubstr("203.0.113.7:1"));
}

}  // namespace
}  // namespace lexico::tests

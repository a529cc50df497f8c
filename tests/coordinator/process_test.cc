// The process lexico-coordinator: what it prints, how it ends, and what it refuses to start with.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "coordinator/options.h"
#include "proto/base/check.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

extern char** environ;

namespace lexico::coord {
namespace {

using testing::HasSubstr;
using tests::IsOk;
using tests::StatusIs;

// A child with its output in files of `dir`.
class Process {
 public:
  Process(const tests::TempDir& dir, const std::string& name, std::vector<std::string> flags)
      : out_(dir.Write(name + ".out", "")), err_(dir.Write(name + ".err", "")) {
    flags.insert(flags.begin(), LEXICO_COORDINATOR_BINARY);
    std::vector<char*> argv;
    for (std::string& flag : flags) argv.push_back(flag.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, out_.c_str(), O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&files, STDERR_FILENO, err_.c_str(), O_WRONLY, 0);
    LEXICO_CHECK_EQ(posix_spawn(&pid_, argv[0], &files, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&files);
  }
  ~Process() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      Wait();
    }
  }
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  void Terminate() const { kill(pid_, SIGTERM); }
  std::string out() const { return tests::ReadFile(out_); }
  std::string err() const { return tests::ReadFile(err_); }
  // The gRPC address of the ready line.
  std::string Ready() const {
    for (int i = 0; i < 2000; ++i) {
      const std::string line = out();
      if (line.starts_with("ready grpc=") && line.ends_with("\n")) {
        return line.substr(11, line.find(' ', 11) - 11);
      }
      usleep(5000);
    }
    ADD_FAILURE() << "not ready: " << err();
    return "";
  }

 private:
  pid_t pid_ = -1;
  std::string out_, err_;
};

class ProcessTest : public testing::Test {
 protected:
  std::vector<std::string> Flags(const std::string& address = "127.0.0.1:0") {
    return {"--address",   address,      "--metrics_address",
            "127.0.0.1:0", "--data_dir", dir_.File("data")};
  }
  tests::TempDir dir_;
};

TEST_F(ProcessTest, ServesUntilSigtermAndEndsInOrder) {
  Process process(dir_, "a", Flags());
  EXPECT_THAT(process.Ready(), HasSubstr("127.0.0.1:"));
  EXPECT_THAT(process.out(), HasSubstr("metrics=127.0.0.1:"));
  process.Terminate();
  EXPECT_EQ(process.Wait(), 0) << process.err();
}

TEST_F(ProcessTest, PortAndFolderInUseAreRefused) {
  Process first(dir_, "a", Flags());
  const std::string address = first.Ready();
  Process same_folder(dir_, "b", Flags());
  EXPECT_EQ(same_folder.Wait(), 1);
  EXPECT_THAT(same_folder.err(), HasSubstr("is in use by process"));
  Process same_port(dir_, "c", {"--address", address, "--metrics_address", ""});
  EXPECT_EQ(same_port.Wait(), 1);
  EXPECT_THAT(same_port.err(), HasSubstr("cannot listen on " + address));
}

TEST_F(ProcessTest, DamagedJournalIsRefused) {
  std::filesystem::create_directory(dir_.File("data"));
  dir_.Write("data/journal", "this is no journal at all");
  Process process(dir_, "a", Flags());
  EXPECT_EQ(process.Wait(), 1);
  EXPECT_THAT(process.err(), HasSubstr("data/journal is damaged at byte 0"));
}

TEST(OptionsTest, DefaultsAndFlags) {
  const char* none[] = {"lexico-coordinator"};
  const auto defaults = ParseCoordinatorOptions(1, none);
  ASSERT_THAT(defaults, IsOk());
  EXPECT_EQ(defaults->cluster.lease, absl::Seconds(5));
  EXPECT_EQ(defaults->data_dir, "");
  const char* some[] = {"lexico-coordinator", "--lease_ms=250",        "--worker_calls_max", "2",
                        "--tls_ca=ca.pem",    "--min_profile=paper-s8"};
  const auto options = ParseCoordinatorOptions(6, some);
  ASSERT_THAT(options, IsOk());
  EXPECT_EQ(options->cluster.lease, absl::Milliseconds(250));
  EXPECT_EQ(options->cluster.admission.worker_calls_max, 2);
  EXPECT_EQ(options->cluster.tls.ca_file, "ca.pem");
  EXPECT_EQ(defaults->cluster.min_profile, "");
  EXPECT_EQ(options->cluster.min_profile, "paper-s8");
}

TEST(OptionsTest, WrongFlagsAreRefusedByName) {
  for (const auto& [flag, part] : std::initializer_list<std::pair<const char*, const char*>>{
           {"--lease_s=250", "--lease_ms"},
           {"--lease_ms=5", "lease_ms"},
           {"--calls_max=0", "calls_max"},
           {"--log_level=loud", "log_level"},
           {"--address=127.0.0.1:65536", "--address \"127.0.0.1:65536\": port 65536 is too large"},
           {"--address=:1", "--address \":1\": it has no host"},
           {"--min_profile=paper", "--min_profile: no profile 'paper'"},
           {"--store=h:0", "--store \"h:0\": port 0 cannot be connected to"},
           {"--metrics_address=here", "--metrics_address \"here\": it has no port"}}) {
    const char* argv[] = {"lexico-coordinator", flag};
    EXPECT_THAT(ParseCoordinatorOptions(2, argv),
                StatusIs(absl::StatusCode::kInvalidArgument, part))
        << flag;
  }
}

}  // namespace
}  // namespace lexico::coord

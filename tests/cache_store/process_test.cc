// The real lexico-cache-store: its command line, its errors, and kill -9 in the middle of puts.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "cache_store/client/client.h"
#include "tests/cache_store/page_factory.h"

namespace lexico::store {
namespace {

// Set by the build: the program under test.
const std::string kProgram = LEXICO_CACHE_STORE_PROGRAM;

absl::Time Soon() { return absl::Now() + absl::Seconds(20); }

class Process {
 public:
  explicit Process(std::vector<std::string> arguments) {
    int out[2], err[2];
    EXPECT_EQ(pipe(out), 0);
    EXPECT_EQ(pipe(err), 0);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(out[1], 1);
      dup2(err[1], 2);
      for (const int fd : {out[0], out[1], err[0], err[1]}) close(fd);
      std::vector<char*> argv = {const_cast<char*>(kProgram.c_str())};
      for (std::string& argument : arguments) argv.push_back(argument.data());
      argv.push_back(nullptr);
      execv(kProgram.c_str(), argv.data());
      _exit(127);
    }
    close(out[1]);
    close(err[1]);
    out_ = out[0];
    err_ = err[0];
  }
  ~Process() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      Wait();
    }
    close(out_);
    close(err_);
  }

  // The first line on stdout.
  std::string ReadLine() {
    std::string line;
    char byte;
    while (read(out_, &byte, 1) == 1 && byte != '\n') line += byte;
    return line;
  }
  std::string ReadErrors() {
    std::string text;
    char buffer[4096];
    ssize_t count;
    while ((count = read(err_, buffer, sizeof(buffer))) > 0) text.append(buffer, count);
    return text;
  }
  void Signal(int number) { kill(pid_, number); }
  // The exit code, or minus the signal that ended it.
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  pid_t pid_ = -1;
  int out_ = -1;
  int err_ = -1;
};

class StoreProcessTest : public testing::Test {
 protected:
  std::vector<std::string> Arguments() const {
    return {"--address",
            "127.0.0.1:0",
            "--bulk_address",
            "127.0.0.1:0",
            "--metrics_address",
            "127.0.0.1:0",
            "--data_dir",
            dir_.path() + "/data",
            "--log_level",
            "warning",
            "--disk_bytes",
            "64MiB",
            "--disk_reserve_bytes",
            "0"};
  }
  void Start() {
    process_ = std::make_unique<Process>(Arguments());
    const std::string line = process_->ReadLine();
    char host[64];
    int bulk_port = 0, metrics_port = 0;
    ASSERT_EQ(std::sscanf(line.c_str(), "ready grpc=%63s bulk=%d metrics=%d", host, &bulk_port,
                          &metrics_port),
              3)
        << line;
    EXPECT_GT(metrics_port, 0);
    client_ = *Client::Create({.address = host}, nullptr);
  }
  // How it ends when started with `changes` (flag, value, ...) in place of or beside the others.
  void ExpectFailure(std::vector<std::string> changes, int exit_code, const std::string& message) {
    auto arguments = Arguments();
    for (size_t i = 0; i < changes.size(); i += 2) {
      const auto flag = std::find(arguments.begin(), arguments.end(), changes[i]);
      if (flag != arguments.end()) {
        *std::next(flag) = changes[i + 1];
      } else {
        arguments.insert(arguments.end(), {changes[i], changes[i + 1]});
      }
    }
    Process process(arguments);
    const std::string errors = process.ReadErrors();
    EXPECT_EQ(process.Wait(), exit_code) << errors;
    EXPECT_NE(errors.find(message), std::string::npos) << errors;
  }

  TempDir dir_;
  std::unique_ptr<Process> process_;
  std::unique_ptr<Client> client_;
};

TEST_F(StoreProcessTest, EverythingAcknowledgedIsThereAfterKillNine) {
  std::set<uint64_t> acknowledged;
  std::set<std::string> manifests;
  for (uint64_t round = 0; round < 3; ++round) {
    Start();
    std::atomic<bool> stop = false;
    std::vector<std::set<uint64_t>> stored(3);
    std::set<std::string> stored_manifests;
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 3; ++t) {
      threads.emplace_back([&, t] {
        for (uint64_t i = 0; !stop; ++i) {
          const uint64_t first = 1000000 * round + 100000 * t + 5 * i;
          std::vector<TestPage> pages;
          for (uint64_t n = first; n < first + 5; ++n) pages.push_back(MakePage(KeyOf(n)));
          std::vector<PageOut> out;
          for (const TestPage& page : pages) out.push_back({page.encoded, page.payload});
          if (!client_->PutPages(out, Soon()).ok()) return;
          for (uint64_t n = first; n < first + 5; ++n) stored[t].insert(n);
          if (t != 0 || i % 4 != 0) continue;
          const std::string id = "session-" + std::to_string(first);
          if (!client_->PutManifest(id, 1, MakeManifestBytes(id, 1, {first}), Soon()).ok()) return;
          stored_manifests.insert(id);
        }
      });
    }
    absl::SleepFor(absl::Milliseconds(400));
    process_->Signal(SIGKILL);
    stop = true;
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(process_->Wait(), -SIGKILL);
    for (const auto& set : stored) acknowledged.insert(set.begin(), set.end());
    manifests.insert(stored_manifests.begin(), stored_manifests.end());
  }
  ASSERT_GT(acknowledged.size(), 15u);
  ASSERT_GT(manifests.size(), 0u);
  Start();
  for (const uint64_t n : acknowledged) {
    std::vector<uint8_t> payload(120);
    PageIn in{.expected = {.key = KeyOf(n)}, .payload = payload};
    ASSERT_TRUE(client_->GetPages({&in, 1}, Soon()).ok());
    ASSERT_TRUE(in.status.ok()) << n << " " << in.status;
    ASSERT_EQ(payload, MakePage(KeyOf(n)).payload);
  }
  for (const std::string& id : manifests) {
    EXPECT_TRUE(client_->GetManifest(id, Soon()).ok()) << id;
  }
}

TEST_F(StoreProcessTest, SigtermEndsItCleanly) {
  Start();
  process_->Signal(SIGTERM);
  EXPECT_EQ(process_->Wait(), 0);
}

TEST_F(StoreProcessTest, WithoutAFolderItServesFromMemory) {
  Process process({"--address", "127.0.0.1:0", "--bulk_address", "127.0.0.1:0", "--metrics_address",
                   "", "--log_level", "warning"});
  const std::string line = process.ReadLine();
  EXPECT_TRUE(line.starts_with("ready grpc=127.0.0.1:")) << line;
  EXPECT_TRUE(line.ends_with("metrics=0")) << line;
  process.Signal(SIGINT);
  EXPECT_EQ(process.Wait(), 0);
}

TEST_F(StoreProcessTest, WhatKeepsItFromServingIsSaidAndExitsWithOne) {
  Start();
  ExpectFailure({}, 1, "served by another process");
  const auto info = client_->GetStatus(Soon());
  ASSERT_TRUE(info.ok()) << info.status();
  const std::string taken = "127.0.0.1:" + std::to_string(info->bulk_port);
  const std::string other = dir_.path() + "/other";
  ExpectFailure({"--data_dir", other, "--bulk_address", taken}, 1, taken);
  ExpectFailure({"--data_dir", other, "--address", taken}, 1, taken);
  ExpectFailure({"--data_dir", other, "--metrics_address", taken}, 1, taken);
  ExpectFailure({"--data_dir", "/proc/none"}, 1, "/proc/none");
  process_->Signal(SIGTERM);
  EXPECT_EQ(process_->Wait(), 0);
  std::ofstream(dir_.path() + "/data/index/CURRENT") << "nonsense\n";
  ExpectFailure({}, 1, dir_.path() + "/data/index");
  ExpectFailure({}, 1, "start once with --rebuild_index");
}

TEST_F(StoreProcessTest, WrongFlagsAreSaidAndExitWithTwo) {
  ExpectFailure({"--hots_bytes", "1GiB"}, 2, "did you mean --host_bytes?");
  ExpectFailure({"--host_bytes", "lots"}, 2, "is not a size");
  ExpectFailure({"--host_bytes", "1"}, 2, "at least 1048576");
  ExpectFailure({"--disk_bytes", "1MiB"}, 2, "at least 67108864");
  ExpectFailure({"--address", "127.0.0.1:http"}, 2, "--address \"127.0.0.1:http\": port http");
  ExpectFailure({"--bulk_address", "127.0.0.1:65536"}, 2, "--bulk_address \"127.0.0.1:65536\"");
  ExpectFailure({"--data_dir", "", "--rebuild_index", "--tls_key=key.pem"}, 2,
                "--rebuild_index needs --data_dir");
  ExpectFailure({"--metrics_address", "127.0.0.1:"}, 2, "its port is empty");
}

}  // namespace
}  // namespace lexico::store

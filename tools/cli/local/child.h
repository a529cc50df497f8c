// One child process: its output goes line by line to a log file and to whoever watches.
#pragma once

#include <sys/types.h>

#include <cstdio>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace lexico::cli {

struct ChildSpec {
  std::string name;               // "worker-1", in messages
  std::vector<std::string> argv;  // argv[0] is the program's path
  std::string log_path;           // appended to; both its outputs
};

// Thread-compatible. Spawn from a thread that lives as long as the child: the kernel kills the
// child when that thread ends (PR_SET_PDEATHSIG), whatever way we die, so none is orphaned.
class Child {
 public:
  // Forks and executes. The child has its own process group (a terminal's Ctrl-C reaches only us,
  // who stop it in order) and default signal handling. Errors: the log cannot be opened, or the
  // program cannot be executed.
  static absl::StatusOr<std::unique_ptr<Child>> Spawn(const ChildSpec& spec);
  // Kills and reaps it if it still runs.
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  int output_fd() const { return output_fd_; }  // readable when there is output; non-blocking
  bool running() const { return running_; }

  // Takes what the child wrote since, writes it to the log, and returns its complete lines.
  std::vector<std::string> TakeLines();
  // True when the child has ended; reaps it.
  bool Poll();
  // "exit code 1" or "signal 9 (Killed)". REQUIRES: !running().
  std::string ExitText() const;
  int exit_code() const;  // 128 + signal for a signal

  void Signal(int signal_number) const;

  // The newest lines of its output.
  const std::deque<std::string>& tail() const { return tail_; }

 private:
  Child() = default;

  pid_t pid_ = -1;
  int output_fd_ = -1;
  FILE* log_ = nullptr;
  bool running_ = false;
  int wait_status_ = 0;
  std::string partial_;
  std::deque<std::string> tail_;
};

}  // namespace lexico::cli

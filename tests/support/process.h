// A program under test: its output is collected while it runs, and it never outlives its test.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace lexico::tests {

// Thread-compatible. Make it on the test's main thread: the kernel kills the program when the
// thread that started it ends.
class Process {
 public:
  // argv[0] is a path. Standard input is empty unless `input` is given.
  explicit Process(const std::vector<std::string>& argv, std::string_view input = "");
  ~Process();  // kills it
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int signal_number) const;

  // The first line of its standard output that begins so, or "" when it ends or the time is up.
  std::string WaitForLine(std::string_view beginning, absl::Duration timeout);
  // Its exit code, 128 + signal for a signal, or -1 when it still runs at the time-out.
  int WaitForExit(absl::Duration timeout);

  std::string out() const;  // so far
  std::string err() const;

 private:
  void Read(int fd, std::string* text);

  pid_t pid_ = -1;
  int exit_code_ = -1;
  bool is_reaped_ = false;
  std::vector<std::thread> readers_;
  mutable absl::Mutex mutex_;
  absl::CondVar changed_;
  std::string out_ ABSL_GUARDED_BY(mutex_);
  std::string err_ ABSL_GUARDED_BY(mutex_);
  int n_open_ ABSL_GUARDED_BY(mutex_) = 2;
};

}  // namespace lexico::tests

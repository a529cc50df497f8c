#include "tests/support/process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/time/clock.h"
#include "proto/base/check.h"

namespace lexico::tests {

Process::Process(const std::vector<std::string>& argv, std::string_view input) {
  std::vector<char*> arguments;
  for (const std::string& word : argv) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  // A file in memory, so that any amount of input can be given without a thread.
  const int in = memfd_create("input", MFD_CLOEXEC);
  LEXICO_CHECK_EQ(write(in, input.data(), input.size()), static_cast<ssize_t>(input.size()));
  lseek(in, 0, SEEK_SET);
  int out[2];
  int err[2];
  LEXICO_CHECK_EQ(pipe2(out, O_CLOEXEC), 0);
  LEXICO_CHECK_EQ(pipe2(err, O_CLOEXEC), 0);
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);
    dup2(in, STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    dup2(err[1], STDERR_FILENO);
    execv(arguments[0], arguments.data());
    _exit(127);
  }
  LEXICO_CHECK_GT(pid_, 0);
  close(in);
  close(out[1]);
  close(err[1]);
  readers_.emplace_back([this, fd = out[0]] { Read(fd, &out_); });
  readers_.emplace_back([this, fd = err[0]] { Read(fd, &err_); });
}

Process::~Process() {
  if (!is_reaped_) {
    kill(pid_, SIGKILL);
    WaitForExit(absl::Seconds(10));
  }
  for (std::thread& reader : readers_) reader.join();
}

void Process::Read(int fd, std::string* text) {
  char buffer[4096];
  ssize_t n;
  while ((n = read(fd, buffer, sizeof(buffer))) > 0) {
    absl::MutexLock lock(&mutex_);
    text->append(buffer, n);
    changed_.SignalAll();
  }
  close(fd);
  absl::MutexLock lock(&mutex_);
  --n_open_;
  changed_.SignalAll();
}

void Process::Signal(int signal_number) const {
  if (!is_reaped_) kill(pid_, signal_number);
}

std::string Process::WaitForLine(std::string_view beginning, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  absl::MutexLock lock(&mutex_);
  while (true) {
    for (size_t at = 0, end; (end = out_.find('\n', at)) != std::string::npos; at = end + 1) {
      const std::string line = out_.substr(at, end - at);
      if (line.starts_with(beginning)) return line;
    }
    if (n_open_ == 0 || absl::Now() >= deadline) return "";
    changed_.WaitWithDeadline(&mutex_, deadline);
  }
}

int Process::WaitForExit(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  int status = 0;
  while (!is_reaped_) {
    if (waitpid(pid_, &status, WNOHANG) == pid_) {
      is_reaped_ = true;
      exit_code_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    } else if (absl::Now() >= deadline) {
      return -1;
    } else {
      absl::SleepFor(absl::Milliseconds(5));
    }
  }
  // What it wrote last is in the pipes still.
  absl::MutexLock lock(&mutex_);
  while (n_open_ > 0 && absl::Now() < deadline) changed_.WaitWithDeadline(&mutex_, deadline);
  return exit_code_;
}

std::string Process::out() const {
  absl::MutexLock lock(&mutex_);
  return out_;
}

std::string Process::err() const {
  absl::MutexLock lock(&mutex_);
  return err_;
}

}  // namespace lexico::tests

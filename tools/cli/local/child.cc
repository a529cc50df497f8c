#include "tools/cli/local/child.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace lexico::cli {
namespace {

constexpr size_t kTailLines = 12;
constexpr size_t kLineBytesMax = 8192;  // a longer line is cut: it is a log for people

// Runs between fork and exec: async-signal-safe calls only. Never returns.
[[noreturn]] void ExecuteInChild(char* const* argv, pid_t parent, int output, int error_pipe) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // the parent died before the line above
  setpgid(0, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  const int null = open("/dev/null", O_RDONLY);
  dup2(null, STDIN_FILENO);
  dup2(output, STDOUT_FILENO);
  dup2(output, STDERR_FILENO);
  execv(argv[0], argv);
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(error_pipe, &error, sizeof(error));
  _exit(127);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Child>> Child::Spawn(const ChildSpec& spec) {
  auto child = std::unique_ptr<Child>(new Child);
  child->log_ = std::fopen(spec.log_path.c_str(), "ae");
  if (child->log_ == nullptr) {
    return absl::UnknownError(
        fmt::format("cannot write {}: {}", spec.log_path, std::strerror(errno)));
  }
  int output[2];
  int error_pipe[2];
  if (pipe2(output, O_CLOEXEC) != 0 || pipe2(error_pipe, O_CLOEXEC) != 0) {
    return absl::ResourceExhaustedError(
        fmt::format("cannot start {}: {}", spec.name, std::strerror(errno)));
  }
  std::vector<char*> argv;
  for (const std::string& argument : spec.argv) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  child->pid_ = fork();
  if (child->pid_ == 0) ExecuteInChild(argv.data(), parent, output[1], error_pipe[1]);
  close(output[1]);
  close(error_pipe[1]);
  child->output_fd_ = output[0];
  fcntl(child->output_fd_, F_SETFL, O_NONBLOCK);
  child->running_ = child->pid_ > 0;
  // The pipe closes at a successful exec and brings errno after a failed one.
  int error = child->pid_ > 0 ? 0 : errno;
  if (child->pid_ > 0) {
    while (read(error_pipe[0], &error, sizeof(error)) < 0 && errno == EINTR) {
    }
  }
  close(error_pipe[0]);
  if (error != 0) {
    return absl::NotFoundError(
        fmt::format("cannot start {} ({}): {}", spec.name, spec.argv[0], std::strerror(error)));
  }
  return child;
}

Child::~Child() {
  if (running_) {
    kill(pid_, SIGKILL);
    waitpid(pid_, &wait_status_, 0);
  }
  if (output_fd_ >= 0) close(output_fd_);
  if (log_ != nullptr) std::fclose(log_);
}

std::vector<std::string> Child::TakeLines() {
  std::vector<std::string> lines;
  char buffer[4096];
  while (true) {
    const ssize_t n = read(output_fd_, buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    std::fwrite(buffer, 1, n, log_);
    partial_.append(buffer, n);
    size_t begin = 0;
    for (size_t end; (end = partial_.find('\n', begin)) != std::string::npos; begin = end + 1) {
      lines.push_back(partial_.substr(begin, std::min(end - begin, kLineBytesMax)));
    }
    partial_.erase(0, begin);
    if (partial_.size() > kLineBytesMax) partial_.resize(kLineBytesMax);
  }
  std::fflush(log_);
  for (const std::string& line : lines) {
    tail_.push_back(line);
    if (tail_.size() > kTailLines) tail_.pop_front();
  }
  return lines;
}

bool Child::Poll() {
  if (running_ && waitpid(pid_, &wait_status_, WNOHANG) == pid_) running_ = false;
  return !running_;
}

std::string Child::ExitText() const {
  if (WIFSIGNALED(wait_status_)) {
    return fmt::format("signal {} ({})", WTERMSIG(wait_status_), strsignal(WTERMSIG(wait_status_)));
  }
  return fmt::format("exit code {}", WEXITSTATUS(wait_status_));
}

int Child::exit_code() const {
  return WIFSIGNALED(wait_status_) ? 128 + WTERMSIG(wait_status_) : WEXITSTATUS(wait_status_);
}

void Child::Signal(int signal_number) const {
  if (running_) kill(pid_, signal_number);
}

}  // namespace lexico::cli

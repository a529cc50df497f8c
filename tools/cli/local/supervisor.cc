#include "tools/cli/local/supervisor.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "absl/time/clock.h"
#include "proto/base/status.h"

namespace lexico::cli {
namespace {

// "ready grpc=127.0.0.1:50051 metrics=127.0.0.1:9090" -> {grpc: ..., metrics: ...}.
std::map<std::string, std::string> ParseReady(const std::string& line) {
  std::map<std::string, std::string> told;
  size_t at = line.find(' ');
  while (at != std::string::npos) {
    const size_t end = line.find(' ', at + 1);
    const std::string word = line.substr(at + 1, end == std::string::npos ? end : end - at - 1);
    if (const size_t equals = word.find('='); equals != std::string::npos) {
      told[word.substr(0, equals)] = word.substr(equals + 1);
    }
    at = end;
  }
  return told;
}

}  // namespace

Supervisor::Supervisor(const SupervisorOptions& options) : options_(options) {
  sigset_t set;
  sigemptyset(&set);
  for (const int s : {SIGCHLD, SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, s);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal_fd_ = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

Supervisor::~Supervisor() { close(signal_fd_); }

absl::Status Supervisor::Launch(Server& server) {
  ChildSpec spec{
      .name = server.spec.name, .argv = {server.spec.program}, .log_path = server.spec.log_path};
  for (const std::string& flag : server.spec.flags) spec.argv.push_back(flag);
  for (const auto& address : server.spec.addresses) {
    spec.argv.push_back(fmt::format("{}={}", address.flag, address.value));
  }
  server.ready = false;
  server.started = absl::Now();
  server.restart_at = absl::InfiniteFuture();
  LEXICO_ASSIGN_OR_RETURN(server.child, Child::Spawn(spec));
  return absl::OkStatus();
}

void Supervisor::TakeOutput(Server& server) {
  if (server.child == nullptr) return;
  for (const std::string& line : server.child->TakeLines()) {
    if (options_.verbose) fmt::print(stderr, "[{}] {}\n", server.spec.name, line);
    if (!server.ready && line.starts_with("ready ")) {
      server.ready = true;
      server.told = ParseReady(line);
      for (auto& address : server.spec.addresses) {
        const auto told = server.told.find(address.key);
        if (told == server.told.end()) continue;
        // A bare port is one of the host that was asked for.
        if (told->second.find(':') == std::string::npos) {
          told->second = address.value.substr(0, address.value.rfind(':') + 1) + told->second;
        }
        address.value = told->second;
      }
    }
  }
}

bool Supervisor::WaitForEvents(absl::Time deadline) {
  std::vector<pollfd> fds = {{.fd = signal_fd_, .events = POLLIN, .revents = 0}};
  for (const auto& server : servers_) {
    if (server->child != nullptr && server->child->running()) {
      fds.push_back({.fd = server->child->output_fd(), .events = POLLIN, .revents = 0});
    }
  }
  const auto wait_ms =
      std::clamp<int64_t>(absl::ToInt64Milliseconds(deadline - absl::Now()) + 1, 0, 1000);
  poll(fds.data(), fds.size(), static_cast<int>(wait_ms));
  bool shutdown = false;
  signalfd_siginfo info;
  while (read(signal_fd_, &info, sizeof(info)) == sizeof(info)) {
    if (info.ssi_signo != SIGCHLD) shutdown = true;
  }
  for (const auto& server : servers_) TakeOutput(*server);
  return shutdown;
}

void Supervisor::ReportEnd(const Server& server) const {
  fmt::print(stderr, "lexico local: {} (pid {}) ended with {}; the end of {}:\n", server.spec.name,
             server.child->pid(), server.child->ExitText(), server.spec.log_path);
  for (const std::string& line : server.child->tail()) fmt::print(stderr, "  | {}\n", line);
}

absl::Status Supervisor::Start(std::vector<ServerSpec> servers) {
  std::vector<Server*> starting;
  for (ServerSpec& spec : servers) {
    servers_.push_back(std::make_unique<Server>());
    servers_.back()->spec = std::move(spec);
    servers_.back()->backoff = options_.backoff_min;
    starting.push_back(servers_.back().get());
    LEXICO_RETURN_IF_ERROR(Launch(*starting.back()));
  }
  const absl::Time deadline = absl::Now() + options_.ready_timeout;
  while (true) {
    if (WaitForEvents(deadline)) return absl::CancelledError("stopped before all was ready");
    bool all_ready = true;
    for (const auto& server : servers_) {
      if (server->child->Poll()) {
        TakeOutput(*server);
        ReportEnd(*server);
        return absl::AbortedError(
            fmt::format("{} did not start: {}", server->spec.name, server->child->ExitText()));
      }
      all_ready = all_ready && server->ready;
    }
    if (all_ready) return absl::OkStatus();
    if (absl::Now() >= deadline) {
      return absl::DeadlineExceededError(fmt::format("not all servers were ready within {}",
                                                     absl::FormatDuration(options_.ready_timeout)));
    }
  }
}

absl::Status Supervisor::Run() {
  while (true) {
    absl::Time deadline = absl::Now() + absl::Seconds(1);
    for (const auto& server : servers_) deadline = std::min(deadline, server->restart_at);
    if (WaitForEvents(deadline)) return absl::OkStatus();
    for (const auto& server : servers_) {
      if (server->child != nullptr && server->child->Poll()) {
        TakeOutput(*server);
        ReportEnd(*server);
        if (!options_.restart) {
          return absl::AbortedError(fmt::format("{} ended with {} (see {})", server->spec.name,
                                                server->child->ExitText(), server->spec.log_path));
        }
        if (absl::Now() - server->started > options_.stable) server->backoff = options_.backoff_min;
        fmt::print(stderr, "lexico local: starting {} again in {}\n", server->spec.name,
                   absl::FormatDuration(server->backoff));
        server->restart_at = absl::Now() + server->backoff;
        server->backoff = std::min(server->backoff * 2, options_.backoff_max);
        server->child.reset();
      }
      if (absl::Now() < server->restart_at) continue;
      if (absl::Status status = Launch(*server); !status.ok()) {
        fmt::print(stderr, "lexico local: {}\n", std::string(status.message()));
        server->restart_at = absl::Now() + server->backoff;
      }
    }
  }
}

void Supervisor::StopRank(int rank) {
  const auto of_rank = [&](const std::unique_ptr<Server>& server) {
    return server->spec.stop_rank == rank && server->child != nullptr && !server->child->Poll();
  };
  for (const auto& server : servers_) {
    if (of_rank(server)) server->child->Signal(SIGTERM);
  }
  const absl::Time deadline = absl::Now() + options_.stop_timeout;
  bool killed = false;
  while (std::any_of(servers_.begin(), servers_.end(), of_rank)) {
    const bool again = WaitForEvents(std::min(deadline, absl::Now() + absl::Milliseconds(100)));
    if (killed || (!again && absl::Now() < deadline)) continue;
    killed = true;
    for (const auto& server : servers_) {
      if (!of_rank(server)) continue;
      fmt::print(stderr, "lexico local: {} did not stop in time and is killed\n",
                 server->spec.name);
      server->child->Signal(SIGKILL);
    }
  }
  for (const auto& server : servers_) TakeOutput(*server);
}

void Supervisor::Stop() {
  std::set<int> ranks;
  for (const auto& server : servers_) {
    server->restart_at = absl::InfiniteFuture();
    ranks.insert(server->spec.stop_rank);
  }
  for (const int rank : ranks) StopRank(rank);
}

const Supervisor::Server* Supervisor::Find(const std::string& name) const {
  for (const auto& server : servers_) {
    if (server->spec.name == name) return server.get();
  }
  return nullptr;
}

std::string Supervisor::Told(const std::string& name, const std::string& key) const {
  const Server* server = Find(name);
  if (server == nullptr) return "";
  const auto told = server->told.find(key);
  return told == server->told.end() ? "" : told->second;
}

pid_t Supervisor::Pid(const std::string& name) const {
  const Server* server = Find(name);
  return server == nullptr || server->child == nullptr ? -1 : server->child->pid();
}

}  // namespace lexico::cli

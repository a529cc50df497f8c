#include "tests/support/tcp_relay.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "proto/base/check.h"

namespace lexico::tests {
namespace {

constexpr int kPollMs = 5;  // how soon Cut() is noticed

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// Moves what is there from one socket to the other; false when either has closed.
bool Forward(int from, int to, size_t n_bytes_max) {
  std::array<char, 65536> buffer;
  const size_t size = n_bytes_max == 0 ? buffer.size() : std::min(buffer.size(), n_bytes_max);
  const ssize_t n_read = recv(from, buffer.data(), size, 0);
  if (n_read <= 0) return n_read < 0 && errno == EINTR;
  ssize_t n_sent = 0;
  while (n_sent < n_read) {
    const ssize_t n =
        send(to, buffer.data() + n_sent, static_cast<size_t>(n_read - n_sent), MSG_NOSIGNAL);
    if (n <= 0) return false;
    n_sent += n;
  }
  return true;
}

}  // namespace

TcpRelay::TcpRelay(int target_port) : target_port_(target_port) {
  listen_fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  LEXICO_CHECK_GE(listen_fd_, 0);
  // Small, so that a sender feels how fast bytes move. Accepted sockets inherit it.
  const int buffer_bytes = 1 << 17;
  setsockopt(listen_fd_, SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof(buffer_bytes));
  sockaddr_in address = Loopback(0);
  LEXICO_CHECK_EQ(bind(listen_fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  LEXICO_CHECK_EQ(listen(listen_fd_, 16), 0);
  socklen_t size = sizeof(address);
  LEXICO_CHECK_EQ(getsockname(listen_fd_, reinterpret_cast<sockaddr*>(&address), &size), 0);
  port_ = ntohs(address.sin_port);
  thread_ = std::thread([this] { Loop(); });
}

TcpRelay::~TcpRelay() { Cut(); }

void TcpRelay::Cut() {
  is_cut_ = true;
  if (thread_.joinable()) thread_.join();
}

void TcpRelay::AcceptOne(std::vector<Pair>* pairs) {
  const int client = accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC);
  if (client < 0) return;
  const int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = Loopback(target_port_);
  if (connect(server, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    close(client);
    close(server);
    return;
  }
  pairs->push_back({client, server});
}

void TcpRelay::Loop() {
  std::vector<Pair> pairs;
  while (!is_cut_) {
    const size_t n_bytes = n_bytes_;
    if (is_held_ || n_bytes > 0) usleep(1000 * kPollMs);
    if (is_held_) continue;
    std::vector<pollfd> fds = {{listen_fd_, POLLIN, 0}};
    for (const Pair& pair : pairs) {
      fds.push_back({pair.client_fd, POLLIN, 0});
      fds.push_back({pair.server_fd, POLLIN, 0});
    }
    if (poll(fds.data(), fds.size(), kPollMs) <= 0) continue;
    std::vector<Pair> open;
    for (size_t i = 0; i < pairs.size(); ++i) {
      const Pair& pair = pairs[i];
      bool is_open = true;
      if (fds[1 + 2 * i].revents != 0) is_open = Forward(pair.client_fd, pair.server_fd, n_bytes);
      if (is_open && fds[2 + 2 * i].revents != 0) {
        is_open = Forward(pair.server_fd, pair.client_fd, n_bytes);
      }
      if (is_open) {
        open.push_back(pair);
      } else {
        close(pair.client_fd);
        close(pair.server_fd);
      }
    }
    pairs = std::move(open);
    if (fds[0].revents != 0) AcceptOne(&pairs);
  }
  for (const Pair& pair : pairs) {
    close(pair.client_fd);
    close(pair.server_fd);
  }
  close(listen_fd_);
}

}  // namespace lexico::tests

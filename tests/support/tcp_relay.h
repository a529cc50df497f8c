// A TCP relay on loopback between a client and a server, to be cut: what a peer sees of kill -9, of
// a pulled cable's reset, of a process that is gone.
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include <atomic>
#include <string>
#include <thread>
#include <vector>

namespace lexico::tests {

class TcpRelay {
 public:
  // Relays connections to 127.0.0.1:`target_port`. CHECK-fails when it cannot listen.
  explicit TcpRelay(int target_port);
  ~TcpRelay();

  int port() const { return port_; }

  // Closes every connection and refuses new ones from now on.
  void Cut();

 private:
  struct Pair {
    int client_fd;
    int server_fd;
  };
  void Loop();
  void AcceptOne(std::vector<Pair>* pairs);

  const int target_port_;
  int listen_fd_ = -1;
  int port_ = 0;
  std::atomic<bool> is_cut_{false};
  std::thread thread_;
};

}  // namespace lexico::tests

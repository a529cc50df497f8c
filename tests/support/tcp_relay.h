// A TCP relay on loopback between a client and a server, to be cut: what a peer sees of kill -9, of
// a pulled cable's reset, of a process that is gone. Or to be held: what a peer sees of a process
// that hangs.
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include <atomic>
#include <cstddef>
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

  // While held, connections stay open, new ones are taken by the kernel, and no byte moves.
  void Hold(bool is_held) { is_held_ = is_held; }
  // At most so many bytes each 5 ms and direction; 0: no bound.
  void Slow(size_t n_bytes) { n_bytes_ = n_bytes; }

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
  std::atomic<bool> is_held_{false};
  std::atomic<size_t> n_bytes_{0};
  std::thread thread_;
};

}  // namespace lexico::tests

// lexico-bench-serving: latencies, throughput and memory of a running service under load.
#include <signal.h>

#include <atomic>
#include <iostream>

#include "tools/bench_serving/bench.h"

namespace {

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);  // a signal handler writes it

}  // namespace

int main(int argc, char** argv) {
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupted = true; };
  action.sa_flags = SA_RESETHAND | SA_RESTART;  // the second one ends the process
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  return lexico::bench_serving::Bench(argc, argv, interrupted, std::cout, std::cerr);
}

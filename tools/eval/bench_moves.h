// What lexico-bench-engine --moves measures: a session's way from the device to the host and back.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/api/stream.h"
#include "worker/engine/engine.h"

namespace lexico::eval {

// GB/s of a device's copies from and to pinned memory, 64 MiB at a time, the best of ten; on a CPU
// of memcpy on one thread.
struct BusCeilings {
  double to_host = 0;
  double to_device = 0;
};
absl::StatusOr<BusCeilings> MeasureBus(const kernels::Stream& stream);

// One way back: from pages and headers in pageable memory to the first token of a question. Each
// page is copied to where an import receives, which stands for a socket's receive, and accepted.
struct RestoreTimes {
  double begin_seconds = 0;        // keys of all pages checked, blocks taken
  double pages_seconds = 0;        // received, verified, on the device
  double windows_seconds = 0;      // the same, and the session open
  double first_token_seconds = 0;  // of the question
  double seconds() const {
    return begin_seconds + pages_seconds + windows_seconds + first_token_seconds;
  }
};

struct MovesRow {
  std::string profile;
  int n_tokens = 0;
  size_t page_bytes = 0;    // of the session's pages
  size_t window_bytes = 0;  // stored
  // From an empty session to the first token of a question about n_tokens.
  double read_again_seconds = 0;
  double export_seconds = 0;       // pages by reference, windows copied
  double to_host_gb_per_s = 0;     // pages to memory from which they can be sent
  double to_wire_gb_per_s = 0;     // the same with the headers and checksums of a put, one thread
  double to_device_gb_per_s = 0;   // pages that are where an import receives
  RestoreTimes one_thread;         // pages copied and verified by one
  RestoreTimes all_threads;        // by all; a worker verifies with up to four
  double step_seconds = 0;         // of decoding, alone
  double step_beside_seconds = 0;  // while another thread reads pages without pause
  double beside_gb_per_s = 0;      // what that thread read
};

// `threads` are those of RestoreTimes all_threads.
absl::StatusOr<MovesRow> MeasureMoves(worker::Engine& engine, const std::string& profile,
                                      int n_tokens, int threads);

}  // namespace lexico::eval

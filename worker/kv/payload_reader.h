// Payloads of pages in memory of the host, a batch at a time: where they lie, or, if that is a
// device, in a lane of the pool's (staging.h) that this object holds; the next batch is on its way
// while one is used.
//
//   for (PayloadReader reader(pages, 256); reader.Next();) ... reader.pages(), reader.payload(i)
//
// Thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "worker/kv/snapshot.h"
#include "worker/kv/staging.h"

namespace lexico::worker {

class PayloadReader {
 public:
  // `pages` are of one pool and stay as they are; a batch has at most `batch_max` of them.
  PayloadReader(std::span<const PageExport* const> pages, size_t batch_max);

  // False: there are no more.
  bool Next();
  // The batch. Payloads are valid until the next Next.
  std::span<const PageExport* const> pages() const { return batch_.pages; }
  std::span<const uint8_t> payload(size_t i) const { return batch_.payloads[i]; }

 private:
  struct Batch {
    std::span<const PageExport* const> pages;
    std::vector<std::span<const uint8_t>> payloads;
  };
  void Load();

  const size_t batch_max_;
  Staging::LaneHold lane_;  // null: pages are read where they lie
  std::span<const PageExport* const> rest_;
  Batch batch_;
  Batch next_;  // on its way, to half half_ of the lane
  int half_ = 0;
};

}  // namespace lexico::worker

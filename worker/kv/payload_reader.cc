#include "worker/kv/payload_reader.h"

#include <algorithm>
#include <utility>

#include "proto/base/check.h"

namespace lexico::worker {

PayloadReader::PayloadReader(std::span<const PageExport* const> pages, size_t batch_max)
    : batch_max_(batch_max), rest_(pages) {
  if (pages.empty()) return;
  Staging* const staging = pages[0]->block.pool()->staging();
  if (staging != nullptr) lane_ = staging->Take();
  Load();
}

void PayloadReader::Load() {
  next_.payloads.clear();
  const std::span<uint8_t> half = lane_ != nullptr ? lane_->half(half_) : std::span<uint8_t>();
  size_t used = 0;
  for (const PageExport* page : rest_.first(std::min(batch_max_, rest_.size()))) {
    if (lane_ == nullptr) {
      next_.payloads.push_back(page->payload());
      continue;
    }
    const size_t payload_bytes = page->header.shape.payload_bytes();
    const size_t bytes = BlockBytes(payload_bytes);
    if (used + bytes > half.size()) break;
    uint8_t* const here = half.data() + used;
    uint8_t* const first = const_cast<uint8_t*>(page->block.data()) + page->offset;
    for (const PagePart& part : *page->parts) {
      if (part.replica) continue;
      lane_->Download({page->block.pool()->At(first, part.rank) + part.local, here + part.whole,
                       part.bytes, part.rank});
    }
    next_.payloads.push_back({here, payload_bytes});
    used += bytes;
  }
  LEXICO_CHECK(!next_.payloads.empty());
  if (lane_ != nullptr) lane_->Start();
  next_.pages = rest_.first(next_.payloads.size());
  rest_ = rest_.subspan(next_.payloads.size());
}

bool PayloadReader::Next() {
  if (lane_ != nullptr) lane_->Synchronize();
  batch_ = std::exchange(next_, {});
  half_ = 1 - half_;
  if (!rest_.empty()) Load();
  return !batch_.pages.empty();
}

}  // namespace lexico::worker

// Moves exported pages as the store would, through the bytes of headers and payloads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "proto/base/status.h"
#include "worker/kv/payload_reader.h"

namespace lexico::worker {

// Copies of the payloads, whatever memory they lie in.
inline std::vector<std::vector<uint8_t>> Payloads(std::span<const PageExport> pages) {
  std::vector<const PageExport*> all;
  for (const PageExport& page : pages) all.push_back(&page);
  std::vector<std::vector<uint8_t>> payloads;
  for (PayloadReader reader(all, 256); reader.Next();) {
    for (size_t i = 0; i < reader.pages().size(); ++i) {
      payloads.emplace_back(reader.payload(i).begin(), reader.payload(i).end());
    }
  }
  return payloads;
}

inline absl::Status CarryPage(SessionImport& import, int64_t index, const PageExport& page,
                              std::span<const uint8_t> payload) {
  std::ranges::copy(payload, import.page_buffer(index).begin());
  return import.AcceptPage(index, *store::DecodeHeader(store::EncodeHeader(page.header, payload)));
}

// All of a snapshot but the pages that `is_lost` names.
inline absl::Status Carry(
    const SessionSnapshot& snapshot, SessionImport& import,
    const std::function<bool(int64_t)>& is_lost = [](int64_t) { return false; }) {
  const std::vector<std::vector<uint8_t>> payloads = Payloads(snapshot.pages);
  for (auto range = import.NextPages(); !range.empty(); range = import.NextPages()) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      if (is_lost(i)) continue;
      LEXICO_RETURN_IF_ERROR(CarryPage(import, i, snapshot.pages[i], payloads[i]));
    }
  }
  for (int layer = 0; layer < static_cast<int>(snapshot.windows.size()); ++layer) {
    const WindowExport& window = snapshot.windows[layer];
    const std::span<uint8_t> buffer = import.window_buffer(layer);
    if (buffer.size() != window.payload.size()) return absl::InternalError("a window's length");
    std::ranges::copy(window.payload, buffer.begin());
    LEXICO_RETURN_IF_ERROR(import.AcceptWindow(
        layer, *store::DecodeHeader(store::EncodeHeader(window.header, window.payload))));
  }
  return absl::OkStatus();
}

}  // namespace lexico::worker

// Windows on their way between their blocks and whole ones in memory of the host, as they are
// stored: [2, n_rows, heads of the model, head_dim] of the cache type. Rows interleave heads, so
// those of a split model are put together, and taken apart, on the host (page_shards.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/kv/page_pool.h"
#include "worker/kv/session_kv.h"

namespace lexico::worker {

// Fills `windows` [n_layers], which have their size, with the window of every layer.
void DownloadWindows(const PagePool& pool, const SessionKv& kv,
                     std::span<std::vector<uint8_t>* const> windows);

// One layer's window of n_rows rows to every rank's block of windows.
void UploadWindow(const PagePool& pool, const KvLayout& layout, uint8_t* window_block, int layer,
                  int64_t n_rows, std::span<uint8_t> window);

}  // namespace lexico::worker

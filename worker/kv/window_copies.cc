#include "worker/kv/window_copies.h"

#include "worker/kv/page_shards.h"

namespace lexico::worker {
namespace {

// One rank's keys or values of a layer's window in memory of the host, and where they are of the
// whole: [n_rows, heads of the rank, head_dim].
struct WindowPart {
  int rank;
  uint8_t* whole;
  std::vector<uint8_t> rows;
};

}  // namespace

void DownloadWindows(const PagePool& pool, const SessionKv& kv,
                     std::span<std::vector<uint8_t>* const> windows) {
  const KvShape& shape = kv.layout().shape;
  const int rows = kv.window_rows();
  const size_t bytes = rows * shape.row_bytes();
  std::vector<WindowPart> parts;
  std::vector<HostCopy> copies;
  for (int layer = 0; layer < shape.n_layers; ++layer) {
    for (const bool value : {false, true}) {
      uint8_t* const half = windows[layer]->data() + (value ? windows[layer]->size() / 2 : 0);
      if (shape.n_ranks == 1) {
        copies.push_back({kv.window_row(layer, value, 0), half, bytes});
        continue;
      }
      for (int rank = 0; rank < shape.n_ranks; rank += shape.n_replicas) {
        parts.push_back({rank, half, std::vector<uint8_t>(bytes)});
        copies.push_back(
            {kv.window_row(layer, value, 0, rank), parts.back().rows.data(), bytes, rank});
      }
    }
  }
  pool.Download(copies);
  for (const WindowPart& part : parts) {
    JoinRows(shape, part.rank, rows, part.rows.data(), part.whole);
  }
}

void UploadWindow(const PagePool& pool, const KvLayout& layout, uint8_t* window_block, int layer,
                  int64_t n_rows, std::span<uint8_t> window) {
  const KvShape& shape = layout.shape;
  const size_t bytes = n_rows * shape.row_bytes();
  const size_t capacity_half = layout.window_capacity() * shape.row_bytes();
  std::vector<std::vector<uint8_t>> parts;
  std::vector<HostCopy> copies;
  for (int rank = 0; rank < shape.n_ranks; ++rank) {
    uint8_t* const to = pool.At(window_block, rank) + layout.window_offset(layer);
    for (const bool value : {false, true}) {
      uint8_t* rows = window.data() + (value ? window.size() / 2 : 0);
      if (shape.n_ranks > 1) {
        parts.emplace_back(bytes);
        CutRows(shape, rank, n_rows, rows, parts.back().data());
        rows = parts.back().data();
      }
      copies.push_back({to + (value ? capacity_half : 0), rows, bytes, rank});
    }
  }
  pool.Upload(copies);
}

}  // namespace lexico::worker

#include "worker/kv/page_shards.h"

#include <cstring>

#include "proto/base/check.h"

namespace lexico::worker {
namespace {

size_t ModelRowBytes(const KvShape& shape) {
  return shape.row_bytes() / shape.n_kv_heads * shape.model_kv_heads();
}

size_t OffsetInRow(const KvShape& shape, int rank) {
  return shape.row_bytes() / shape.n_kv_heads * shape.first_kv_head(rank);
}

}  // namespace

std::vector<PagePart> PartsOfPage(const KvLayout& layout) {
  const KvShape& shape = layout.shape;
  if (shape.n_ranks == 1) return {{.bytes = BlockBytes(layout.page_bytes())}};
  kernels::PageLayout whole = layout.page;
  whole.n_kv_heads = shape.model_kv_heads();
  std::vector<PagePart> parts;
  for (int rank = 0; rank < shape.n_ranks; ++rank) {
    for (const bool value : {false, true}) {
      parts.push_back({.rank = rank,
                       .local = layout.page.head_offset(value, 0),
                       .whole = whole.head_offset(value, shape.first_kv_head(rank)),
                       .bytes = shape.n_kv_heads * whole.head_bytes(value),
                       .replica = rank % shape.n_replicas != 0});
    }
  }
  return parts;
}

void JoinRows(const KvShape& shape, int rank, int64_t n_rows, const uint8_t* local,
              uint8_t* whole) {
  for (int64_t row = 0; row < n_rows; ++row) {
    std::memcpy(whole + row * ModelRowBytes(shape) + OffsetInRow(shape, rank),
                local + row * shape.row_bytes(), shape.row_bytes());
  }
}

void CutRows(const KvShape& shape, int rank, int64_t n_rows, const uint8_t* whole, uint8_t* local) {
  for (int64_t row = 0; row < n_rows; ++row) {
    std::memcpy(local + row * shape.row_bytes(),
                whole + row * ModelRowBytes(shape) + OffsetInRow(shape, rank), shape.row_bytes());
  }
}

void JoinErrors(std::span<const std::vector<PageError>> ranks, std::span<PageError> whole) {
  for (size_t i = 0; i < whole.size(); ++i) {
    double k = 0;
    double v = 0;
    for (const std::vector<PageError>& errors : ranks) {
      LEXICO_CHECK_EQ(errors.size(), whole.size());
      k += errors[i].k;
      v += errors[i].v;
    }
    const auto n = static_cast<double>(ranks.size());
    whole[i] = {static_cast<float>(k / n), static_cast<float>(v / n)};
  }
}

}  // namespace lexico::worker

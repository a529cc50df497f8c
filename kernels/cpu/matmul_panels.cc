// Work of PanelMatMul: rows of x are first packed in blocks of kTileRows (rows interleaved, so that
// the tile reads one stream instead of kTileRows streams a power of two apart, which would share
// cache sets); then threads take pieces of kPieceRows rows x kPiecePanels panels.
//
//   packed rows of a piece   96 x 384 x 4 B = 147 KB, 96 x 1024 x 4 B = 393 KB: L2
//   one panel                n_in x 32 B (BF16) = 12 .. 32 KB: L1, reused by the piece's row blocks
//
// Few rows (decode): the cost is reading W once. Fewer rows than a tile take several panels at a
// time instead, because one row alone cannot fill the FMA pipeline (latency 4, two a cycle).
//
// Measured against oneDNN 2.6 and OpenBLAS 0.3.21: docs/adr/0002-matrix-products.md.
#include "kernels/cpu/matmul_panels.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/openmp.h"
#include "proto/base/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul_panels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/matmul_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu {
namespace HWY_NAMESPACE {

inline constexpr int64_t kPieceRows = 96;   // a multiple of every kTileRows
inline constexpr int64_t kPiecePanels = 8;  // pieces of about a millisecond

// Panels taken together by a block of few rows: at least 8 accumulators in flight.
constexpr size_t PanelsTogether(size_t rows) {
  return rows * kPanelVectors >= 8 ? 1 : std::min<size_t>(4, 8 / (rows * kPanelVectors));
}

struct Job {
  const float* packed;  // [n_blocks, n_in, kTileRows]; one row: [n_in]
  int64_t n_rows;
  const PanelMatrix* w;
  float* y;
  bool accumulate;
};

HWY_INLINE void Store(const Job& job, int64_t row, int64_t column, VF value) {
  const DF df;
  float* to = job.y + row * job.w->n_out() + column;
  const int64_t left = job.w->n_out() - column;
  if (left >= static_cast<int64_t>(kLanes)) {
    if (job.accumulate) value = hn::Add(value, hn::LoadU(df, to));
    hn::StoreU(value, df, to);
    return;
  }
  float lanes[kLanes];
  hn::StoreU(value, df, lanes);
  for (int64_t i = 0; i < left; ++i) to[i] = job.accumulate ? to[i] + lanes[i] : lanes[i];
}

template <size_t kRows, size_t kPanels, typename Element>
HWY_INLINE void Tile(const Job& job, int64_t row, int64_t panel) {
  const int64_t n_in = job.w->n_in();
  const size_t step = job.n_rows == 1 ? 1 : kTileRows;
  const size_t panel_stride = n_in * kPanelColumns;
  const Element* from = static_cast<const Element*>(job.w->data()) + panel * panel_stride;
  TileProduct<kRows, kPanels>(
      job.packed + row * n_in, 1, step, from, panel_stride, n_in,
      [](size_t, size_t, size_t) HWY_ATTR { return hn::Zero(DF()); },
      [&](size_t r, size_t p, size_t v, VF value) HWY_ATTR {
        if (row + static_cast<int64_t>(r) >= job.n_rows) return;
        Store(job, row + r, (panel + p) * kPanelColumns + v * kLanes, value);
      });
}

// One block of rows against panels [begin, end).
template <size_t kRows, typename Element>
HWY_NOINLINE void Block(const Job& job, int64_t row, int64_t begin, int64_t end) {
  constexpr size_t kTogether = PanelsTogether(kRows);
  int64_t panel = begin;
  for (; panel + static_cast<int64_t>(kTogether) <= end; panel += kTogether)
    Tile<kRows, kTogether, Element>(job, row, panel);
  for (; panel < end; ++panel) Tile<kRows, 1, Element>(job, row, panel);
}

template <typename Element>
void Rows(const Job& job, int64_t row_begin, int64_t row_end, int64_t begin, int64_t end) {
  // Panel outermost while rows fill tiles: the panel stays in L1.
  const int64_t n_full = (row_end - row_begin) / kTileRows * kTileRows;
  const int64_t full_end = row_begin + n_full;
  for (int64_t panel = begin; panel < end; ++panel)
    for (int64_t row = row_begin; row < full_end; row += kTileRows)
      Block<kTileRows, Element>(job, row, panel, panel + 1);
  const int64_t left = row_end - full_end;
  if (left == 0) return;
  if (left == 1) return Block<1, Element>(job, full_end, begin, end);
  if constexpr (kTileRows > 3) {
    if (left == 2) return Block<2, Element>(job, full_end, begin, end);
    if (left <= 4) return Block<4, Element>(job, full_end, begin, end);
  }
  if constexpr (kTileRows > 8)
    if (left <= 8) return Block<8, Element>(job, full_end, begin, end);
  Block<kTileRows, Element>(job, full_end, begin, end);
}

void PackRows(const float* HWY_RESTRICT x, int64_t n_rows, int64_t n_in, int64_t block,
              float* HWY_RESTRICT packed) {
  float* to = packed + block * kTileRows * n_in;
  const int64_t first = block * kTileRows;
  const int64_t n = std::min<int64_t>(kTileRows, n_rows - first);
  for (int64_t r = 0; r < static_cast<int64_t>(kTileRows); ++r) {
    if (r < n) {
      const float* from = x + (first + r) * n_in;
      for (int64_t i = 0; i < n_in; ++i) to[i * kTileRows + r] = from[i];
    } else {
      for (int64_t i = 0; i < n_in; ++i) to[i * kTileRows + r] = 0;
    }
  }
}

template <typename Element>
void MatMulOf(const float* x, const PanelMatrix& w, Job job, int threads) {
  const int64_t n_in = w.n_in();
  const int64_t n_panels = w.n_panels();
  const int64_t n_blocks = hwy::DivCeil(static_cast<size_t>(job.n_rows), kTileRows);
  hwy::AlignedFreeUniquePtr<float[]> packed;
  if (job.n_rows > 1) {
    packed = hwy::AllocateAligned<float>(n_blocks * kTileRows * n_in);
    job.packed = packed.get();
  }
  const int64_t row_pieces = (job.n_rows + kPieceRows - 1) / kPieceRows;
  // Few rows: one contiguous range of panels a thread, the kindest to the prefetcher.
  const int64_t piece_panels =
      job.n_rows > kPieceRows / 2 ? kPiecePanels : (n_panels + threads - 1) / threads;
  const int64_t panel_pieces = (n_panels + piece_panels - 1) / piece_panels;
#pragma omp parallel num_threads(threads)
  {
    if (job.n_rows > 1) {
#pragma omp for schedule(static)
      for (int64_t block = 0; block < n_blocks; ++block)
        PackRows(x, job.n_rows, n_in, block, packed.get());
    }
#pragma omp for collapse(2) schedule(dynamic) nowait
    for (int64_t i = 0; i < row_pieces; ++i)
      for (int64_t j = 0; j < panel_pieces; ++j)
        Rows<Element>(job, i * kPieceRows, std::min(job.n_rows, (i + 1) * kPieceRows),
                      j * piece_panels, std::min(n_panels, (j + 1) * piece_panels));
  }
}

void MatMulOnTarget(const float* x, int64_t n_rows, const PanelMatrix& w, float* y, bool accumulate,
                    int threads) {
  const Job job{x, n_rows, &w, y, accumulate};
  threads = UsefulThreads(n_rows * w.n_in() * w.n_out(), threads);
  switch (w.dtype()) {
    case DType::kBF16:
      return MatMulOf<Bf16>(x, w, job, threads);
    case DType::kF16:
      return MatMulOf<F16>(x, w, job, threads);
    default:
      return MatMulOf<float>(x, w, job, threads);
  }
}

const char* TargetName() { return hwy::TargetName(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace lexico::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lexico::kernels::cpu {

HWY_EXPORT(MatMulOnTarget);
HWY_EXPORT(TargetName);

PanelMatrix::PanelMatrix(std::span<const TensorView> weights, int64_t n_out, int64_t n_in)
    : n_out_(n_out), n_in_(n_in), n_panels_((n_out + 15) / 16), dtype_(weights[0].dtype) {
  for (const TensorView& w : weights)
    if (w.dtype != dtype_) dtype_ = DType::kF32;
  data_ = hwy::AllocateAligned<uint8_t>(bytes());
  std::memset(data_.get(), 0, bytes());
  int64_t out = 0;
  for (const TensorView& w : weights) {
    for (int64_t row = 0; row < w.dim(0); ++row, ++out) {
      const int64_t column = out % 16;
      const int64_t at = out / 16 * n_in * 16;
      // Bf16PanelColumn of matmul_tile-inl.h, the other way round.
      const int64_t place =
          dtype_ == DType::kBF16 ? (column < 8 ? 2 * column : 2 * (column - 8) + 1) : column;
      for (int64_t i = 0; i < n_in; ++i) {
        const int64_t to = at + i * 16 + place;
        if (dtype_ == DType::kF32) {
          reinterpret_cast<float*>(data_.get())[to] = LoadFloat(w.data, w.dtype, row * n_in + i);
        } else {
          reinterpret_cast<uint16_t*>(data_.get())[to] = w.as<uint16_t>()[row * n_in + i];
        }
      }
    }
  }
  LEXICO_CHECK_EQ(out, n_out);
}

void PanelMatMul(const float* x, int64_t n_rows, const PanelMatrix& w, float* y, bool accumulate,
                 int threads) {
  HWY_DYNAMIC_DISPATCH(MatMulOnTarget)(x, n_rows, w, y, accumulate, threads);
}

const char* PanelTarget() { return HWY_DYNAMIC_DISPATCH(TargetName)(); }

}  // namespace lexico::kernels::cpu
#endif  // HWY_ONCE

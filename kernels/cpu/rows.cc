// Rows are short and pages small: what starts threads does so over pieces of kPiece numbers or
// over the heads of pages, which are independent.
#include "kernels/cpu/rows.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/cpu/convert.h"

namespace lexico::kernels::cpu {
namespace {

constexpr int64_t kPiece = 4096;
constexpr int64_t kThreadElements = 1 << 15;  // as elementwise_simd.cc

int ThreadsFor(int64_t elements, int threads) { return elements < kThreadElements ? 1 : threads; }

// By the exponent, in integers, so that the loop vectorises.
bool AllFinite(const float* x, int64_t n) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  }
  return largest < 0x7f800000u;
}

void Widen(const void* from, DType type, int64_t n, float* to) {
  Convert(TensorView(from, type, {n}), MutableTensorView(to, {n}), /*threads=*/1);
}

void Narrow(const float* from, int64_t n, DType type, void* to) {
  Convert(TensorView(from, {n}), MutableTensorView(to, type, {n}), /*threads=*/1);
}

// Rounds one row to `to`; false when a number of it is then not finite.
bool StoreRow(const float* from, int64_t n, DType type, void* to) {
  Narrow(from, n, type, to);
  bool finite = true;
  float wide[kPiece];
  for (int64_t begin = 0; begin < n; begin += kPiece) {
    const int64_t count = std::min(kPiece, n - begin);
    Widen(static_cast<const char*>(to) + begin * DTypeBytes(type), type, count, wide);
    finite = finite && AllFinite(wide, count);
  }
  return finite;
}

}  // namespace

void RoundToType(MutableTensorView x, DType type, int32_t* non_finite, int threads) {
  const int64_t n = x.size();
  int n_bad = 0;
#pragma omp parallel for num_threads(ThreadsFor(n, threads)) schedule(static) reduction(+ : n_bad)
  for (int64_t begin = 0; begin < n; begin += kPiece) {
    const int64_t count = std::min(kPiece, n - begin);
    float* values = x.as_mutable<float>() + begin;
    if (type != DType::kF32) {
      uint16_t narrow[kPiece];
      Narrow(values, count, type, narrow);
      Widen(narrow, type, count, values);
    }
    if (!AllFinite(values, count)) ++n_bad;
  }
  if (n_bad > 0) *non_finite = 1;
}

void StoreRows(const StoreRowsArgs& args) {
  const int64_t n = args.k.dim(1);
  for (int64_t seq = 0; seq < args.k.dim(0); ++seq) {
    int32_t bad = 0;
    if (!StoreRow(args.k.as<float>() + seq * n, n, args.type, args.k_rows[seq])) {
      bad |= kNonFiniteKey;
    }
    if (!StoreRow(args.v.as<float>() + seq * n, n, args.type, args.v_rows[seq])) {
      bad |= kNonFiniteValue;
    }
    args.non_finite[seq] = bad;
  }
}

void PackCodes(const PackCodesArgs& args) {
  const PageLayout& layout = args.layout;
  const int64_t sparsity = args.atoms.dim(1);
  const int64_t page_vectors = static_cast<int64_t>(layout.page_tokens) * layout.n_kv_heads;
  const int64_t n_pages = args.atoms.dim(0) / page_vectors;
  const uint16_t* atoms = args.atoms.as<uint16_t>();
  const uint8_t* coefs = args.coefs.as<uint8_t>();
  const float* errors = args.rel_error.as<float>();
  for (int64_t page = 0; page < n_pages; ++page) {
    double sum = 0;
    for (int token = 0; token < layout.page_tokens; ++token) {
      for (int head = 0; head < layout.n_kv_heads; ++head) {
        uint8_t* block = args.pages[page] + args.page_offset + layout.head_offset(args.value, head);
        std::memcpy(block + token * sparsity * 2, atoms, sparsity * 2);
        std::memcpy(block + layout.atoms_bytes(static_cast<int>(sparsity)) + token * sparsity,
                    coefs, sparsity);
        sum += *errors;
        atoms += sparsity;
        coefs += sparsity;
        ++errors;
      }
    }
    args.page_error[page] = static_cast<float>(sum / static_cast<double>(page_vectors));
  }
}

void PackDense(const PackDenseArgs& args, int threads) {
  const PageLayout& layout = args.layout;
  const int64_t dim = layout.head_dim;
  const int64_t n_blocks = args.rows.dim(0) / layout.page_tokens * layout.n_kv_heads;
#pragma omp parallel for num_threads(ThreadsFor(args.rows.size(), threads)) schedule(static)
  for (int64_t i = 0; i < n_blocks; ++i) {
    const int64_t page = i / layout.n_kv_heads;
    const int64_t head = i % layout.n_kv_heads;
    uint8_t* to = args.pages[page] + args.page_offset +
                  layout.head_offset(args.value, static_cast<int>(head));
    const float* from =
        args.rows.as<float>() + (page * layout.page_tokens * layout.n_kv_heads + head) * dim;
    for (int token = 0; token < layout.page_tokens; ++token) {
      Narrow(from + token * layout.n_kv_heads * dim, dim, layout.dense_type,
             to + token * dim * DTypeBytes(layout.dense_type));
    }
  }
}

void UnpackDense(const UnpackDenseArgs& args, int threads) {
  const PageLayout& layout = args.layout;
  const int64_t dim = layout.head_dim;
  const int64_t n_blocks = args.rows.dim(0) / layout.page_tokens * layout.n_kv_heads;
#pragma omp parallel for num_threads(ThreadsFor(args.rows.size(), threads)) schedule(static)
  for (int64_t i = 0; i < n_blocks; ++i) {
    const int64_t page = i / layout.n_kv_heads;
    const int64_t head = i % layout.n_kv_heads;
    const uint8_t* from = args.pages[page] + args.page_offset +
                          layout.head_offset(args.value, static_cast<int>(head));
    float* to = args.rows.as_mutable<float>() +
                (page * layout.page_tokens * layout.n_kv_heads + head) * dim;
    for (int token = 0; token < layout.page_tokens; ++token) {
      Widen(from + token * dim * DTypeBytes(layout.dense_type), layout.dense_type, dim,
            to + token * layout.n_kv_heads * dim);
    }
  }
}

void CopyBlocks(const void* const* from, void* const* to, int64_t n, size_t bytes) {
  for (int64_t i = 0; i < n; ++i) std::memcpy(to[i], from[i], bytes);
}

}  // namespace lexico::kernels::cpu

// A warp a vector (quantize_vector.cuh); a block the vectors of one head in kChunkTokens tokens of
// a page, whose codes it then puts into the order of code_order.h. Bytes of planes and scales go
// straight to the page. Errors are kept, one a vector, and a second kernel adds them up in order, a
// thread a page.
//
// Shared memory: the chunk's codes, 6 bytes an atom, and their schedule. Barriers: after the codes
// of a chunk are there, after their schedule is, before the next chunk.
//
// Deterministic: what is written for a page follows from its own vectors; sums have a fixed order.
// In double, which the cards this is compiled for do at half the speed of F32: about 400 of them a
// lane for a vector of 128 with 4 atoms. Not measured yet.
#include <algorithm>

#include "kernels/cuda/dictionary.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/order_codes.cuh"
#include "kernels/cuda/quantize_codes.h"
#include "kernels/cuda/quantize_vector.cuh"

namespace lexico::kernels::cuda {
namespace {

constexpr int kChunkTokens = 32;
constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kErrorThreads = 128;

// The op's arguments on the device. One half of the pages.
struct Quantize {
  uint8_t* const* pages;
  FamilyPages codes;
  AtomRows rows;
  LevelSteps steps;
  const float* x;
  const uint16_t* atoms;
  const float* coefficients;
  double* errors;  // [vectors of the wave]
  unsigned long long* n_non_finite;
  int n_kv_heads;
  bool unbiased;
};

// A chunk's codes before they have their order, [token, sparsity].
struct ChunkCodes {
  uint16_t atoms[kChunkTokens * base::kSparsityMax];
  uint16_t codes[kChunkTokens * base::kSparsityMax];
  TokenBanks banks[kChunkTokens / kOrderTokens][base::kSparsityMax];
};

template <int kParts>
__device__ void StoreResidual(const Quantize& op, uint8_t* block, int token,
                              const QuantizedResidual<kParts>& residual) {
  const FamilyPages& codes = op.codes;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  if (lane == 0) {
    reinterpret_cast<uint16_t*>(block + codes.residual_scales_bytes)[token] = residual.scale;
  }
  uint8_t* to = block + codes.planes_bytes + token * (codes.residual_bits * codes.plane_bytes);
#pragma unroll
  for (int p = 0; p < base::kResidualBitsMax; ++p) {
    if (p >= codes.residual_bits) break;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int byte = part * 4 + lane;
      if (lane < 4 && byte < codes.plane_bytes) {
        to[p * codes.plane_bytes + byte] =
            static_cast<uint8_t>(residual.planes[p][part] >> (8 * lane));
      }
    }
  }
}

// One vector: all but its atoms' codes to the page, these to `chunk`.
template <int kParts>
__device__ void QuantizeVector(const Quantize& op, int64_t vector, uint8_t* block, int token,
                               int chunk_token, ChunkCodes& chunk, double& error_at) {
  const FamilyPages& codes = op.codes;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  VectorParts<kParts> x;
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    const int i = NumberOfLane(part);
    x.v[part] = i < codes.head_dim ? op.x[vector * codes.head_dim + i] : 0.0;
  }
  const double squares = x.Dot(x);
  const bool finite = isfinite(squares);
  QuantizedAtoms atoms = {};
  QuantizedResidual<kParts> residual;
  double error = NAN;
  if (finite) {
    VectorParts<kParts> rest = x;
    if (codes.sparsity > 0) {
      PlacesOfLane<float> coefficients;
#pragma unroll
      for (int k = 0; k < kPlacesOfLane; ++k) {
        const int j = k * kWarp + lane;
        const bool real = j < codes.sparsity;
        atoms.index.v[k] = real ? op.atoms[vector * codes.sparsity + j] : 0;
        coefficients.v[k] = real ? op.coefficients[vector * codes.sparsity + j] : 0.0f;
      }
      rest = QuantizeAtoms(op.rows, codes.sparsity, codes.packed,
                           op.unbiased && codes.residual_bits == 0, x, coefficients, atoms);
    }
    if (codes.residual_bits > 0) {
      residual = QuantizeResidual(op.steps, op.unbiased, codes.head_dim, rest);
    }
    error = squares == 0 ? 0 : sqrt(rest.Dot(rest) / squares);
  }
#pragma unroll
  for (int k = 0; k < kPlacesOfLane; ++k) {
    const int j = k * kWarp + lane;
    if (j >= codes.sparsity) continue;
    chunk.atoms[chunk_token * codes.sparsity + j] = static_cast<uint16_t>(atoms.index.v[k]);
    chunk.codes[chunk_token * codes.sparsity + j] = static_cast<uint16_t>(atoms.code.v[k]);
  }
  if (codes.residual_bits > 0) StoreResidual(op, block, token, residual);
  if (lane != 0) return;
  if (codes.packed) reinterpret_cast<uint16_t*>(block + codes.scales_bytes)[token] = atoms.scale;
  error_at = error;
  if (!finite) atomicAdd(op.n_non_finite, 1ull);
}

// The chunk's codes to the page, in order; by all threads of the block, after a barrier.
__device__ void StoreChunk(const FamilyPages& codes, uint8_t* block, int first, int n_tokens,
                           ChunkCodes& chunk) {
  const int sparsity = codes.sparsity;
  for (int group = threadIdx.x / kWarp; group * kOrderTokens < n_tokens; group += kWarps) {
    OrderGroup(chunk.atoms + group * kOrderTokens * sparsity, sparsity,
               min(n_tokens - group * kOrderTokens, kOrderTokens), chunk.banks[group]);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < n_tokens * sparsity; i += kThreads) {
    const int token = i / sparsity;
    const int place = (first + token) * sparsity +
                      PlaceOfCode(chunk.banks[token / kOrderTokens], token % kOrderTokens,
                                  chunk.atoms + token * sparsity, sparsity, i % sparsity);
    reinterpret_cast<uint16_t*>(block)[place] = codes.packed ? chunk.codes[i] : chunk.atoms[i];
    if (!codes.packed) block[codes.atoms_bytes + place] = static_cast<uint8_t>(chunk.codes[i]);
  }
}

// Grid: (pages, heads).
template <int kParts>
__global__ void __launch_bounds__(kThreads)
    QuantizeCodesKernel(const __grid_constant__ Quantize op, int64_t first_page) {
  __shared__ ChunkCodes chunk;
  const FamilyPages& codes = op.codes;
  const int64_t page = first_page + blockIdx.x;
  const int head = blockIdx.y;
  uint8_t* block = op.pages[page] + codes.kind_bytes + head * codes.head_bytes;
  for (int first = 0; first < codes.page_tokens; first += kChunkTokens) {
    const int n_tokens = min(codes.page_tokens - first, kChunkTokens);
    for (int t = threadIdx.x / kWarp; t < n_tokens; t += kWarps) {
      const int64_t in_wave =
          (static_cast<int64_t>(blockIdx.x) * codes.page_tokens + first + t) * op.n_kv_heads + head;
      const int64_t before = first_page * codes.page_tokens * op.n_kv_heads;
      QuantizeVector<kParts>(op, before + in_wave, block, first + t, t, chunk, op.errors[in_wave]);
    }
    __syncthreads();
    if (codes.sparsity > 0) StoreChunk(codes, block, first, n_tokens, chunk);
    __syncthreads();
  }
}

__global__ void PageErrorKernel(const double* errors, int64_t n_pages, int page_vectors,
                                float* page_error) {
  const int64_t page = static_cast<int64_t>(blockIdx.x) * kErrorThreads + threadIdx.x;
  if (page >= n_pages) return;
  double sum = 0;
  for (int i = 0; i < page_vectors; ++i) sum += errors[page * page_vectors + i];
  page_error[page] = static_cast<float>(sum / page_vectors);
}

}  // namespace

void QuantizeCodes(const QuantizeCodesArgs& args, const Stream& stream) {
  const Gpu& gpu = GpuOf(stream);
  const PageLayout& layout = args.layout;
  const VectorCode code = layout.code(args.value);
  const bool atoms = code.sparsity > 0;
  const Dictionary* dictionary = atoms ? &AsCuda(*args.dictionary) : nullptr;
  const int page_vectors = layout.page_tokens * layout.n_kv_heads;
  const int64_t n_pages = args.x.dim(0) / page_vectors;
  // Errors that do not fit the workspace are taken some pages at a time.
  const int64_t wave = static_cast<int64_t>(gpu.workspace_bytes() / sizeof(double)) / page_vectors;
  LEXICO_CHECK_GE(wave, int64_t{1});
  for (int64_t first = 0; first < n_pages; first += wave) {
    const int64_t n = std::min(wave, n_pages - first);
    auto* errors = reinterpret_cast<double*>(gpu.workspace());
    const Quantize op = {.pages = args.pages,
                         .codes = FamilyPages(args.pages, static_cast<int64_t>(args.page_offset),
                                              layout, args.value),
                         .rows = {atoms ? dictionary->rows() : nullptr,
                                  atoms ? dictionary->row_stride() : 0, layout.head_dim},
                         .steps = LevelSteps(code.form.residual_bits),
                         .x = args.x.as<float>(),
                         .atoms = atoms ? args.atoms.as<uint16_t>() : nullptr,
                         .coefficients = atoms ? args.coefficients.as<float>() : nullptr,
                         .errors = errors,
                         .n_non_finite = reinterpret_cast<unsigned long long*>(args.n_non_finite),
                         .n_kv_heads = layout.n_kv_heads,
                         .unbiased = code.form.unbiased};
    const LaunchShape shape = {"QuantizeCodes", dim3(n, layout.n_kv_heads), kThreads};
    if (layout.head_dim <= 2 * kWarp) {
      Launch(gpu, QuantizeCodesKernel<2>, shape, op, first);
    } else if (layout.head_dim <= 4 * kWarp) {
      Launch(gpu, QuantizeCodesKernel<4>, shape, op, first);
    } else {
      Launch(gpu, QuantizeCodesKernel<8>, shape, op, first);
    }
    Launch(gpu, PageErrorKernel,
           {"QuantizeCodes PageError", dim3(CeilDiv(n, kErrorThreads)), kErrorThreads}, errors, n,
           page_vectors, args.page_error + first);
  }
}

}  // namespace lexico::kernels::cuda

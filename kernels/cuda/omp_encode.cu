// Orthogonal matching pursuit for many vectors: which kernels run.
//
//   Begin    norms; the vectors, scaled to norm 1, are the first residuals
//   Search   sparsity times: the largest products of the residuals with all atoms, on tensor cores
//   Step     after each: exact choice among the candidates, least squares, new residual
//   Store    codes in FP8 and their errors
//
// Vectors are taken in waves, small enough for L2 to hold what they keep between kernels: about 1.3
// KiB a vector of 128 and 4 * sparsity^2 bytes of factor.
//
// Work map, shared memory and barriers: omp_search.cuh, omp_pursuit.cuh. Deterministic: no number
// depends on the batch around a vector; a large batch gives a block of the search all ranges of
// atoms, a small one spreads them over blocks, with the same candidates.
//
// Measured, H100 80GB, 27 Nov 2026, head_dim 128, 131,072 vectors, million a second: 4096 atoms and
// sparsity 8, 16, 24: 18.2, 8.0, 4.6; 1024 atoms: 27.8, 11.4, 6.3. At 4096 and 16 the search runs
// at about 330 TFLOP/s of F16 and takes two fifths of the time; Step, one chain of dependent loads
// and sums, the rest. More, and what was tried and dropped: docs/adr/0007-cuda-kernels.md.
#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/omp_encode.h"
#include "kernels/cuda/omp_pursuit.cuh"
#include "kernels/cuda/omp_search.cuh"

namespace lexico::kernels::cuda {

OmpState::OmpState(WorkspaceCutter& cutter, int n, int sparsity, const Dictionary& dictionary)
    : n_vectors(n),
      sparsity(sparsity),
      row_stride(dictionary.row_stride()),
      search_dim(dictionary.search_dim()) {
  const int block = SearchBlockVectors(search_dim);
  const size_t n_rows = (static_cast<size_t>(n) + block - 1) / block * block;
  const size_t vectors = n;
  residual = cutter.Take<float>(vectors * row_stride);
  halves = cutter.Take<__half>(n_rows * search_dim);
  candidates = cutter.Take<OmpCandidate>(vectors * kSearchRanges * kSearchClasses);
  norm = cutter.Take<double>(vectors);
  inverse_norm = cutter.Take<double>(vectors);
  factor = cutter.Take<double>(vectors * factor_doubles());
  coefs = cutter.Take<float>(vectors * sparsity);
  atoms = cutter.Take<uint16_t>(vectors * sparsity);
  n_atoms = cutter.Take<int32_t>(vectors);
  done = cutter.Take<uint8_t>(n_rows);
}

namespace {

// Of a wave, for each multiprocessor: the state of more than that, 2.5 KiB each at sparsity 16,
// would not stay in L2 between its kernels.
constexpr int kWaveVectors = 64;

// The most vectors, in whole blocks of the search, whose state fits the workspace.
int WaveVectors(const Gpu& gpu, int sparsity, const Dictionary& dictionary) {
  const int block = SearchBlockVectors(dictionary.search_dim());
  WorkspaceCutter cutter(nullptr);
  OmpState(cutter, block, sparsity, dictionary);
  // Alignment of a wave's arrays is counted once a block, which is more than it can be.
  const auto fit = static_cast<int64_t>(gpu.workspace_bytes() / cutter.bytes());
  LEXICO_CHECK_GE(fit, int64_t{1});
  const int64_t wanted = CeilDiv(int64_t{kWaveVectors} * gpu.n_multiprocessors(), block);
  return static_cast<int>(std::min(fit, wanted)) * block;
}

template <int kDim>
void Search(const Gpu& gpu, const OmpState& state, const Dictionary& dictionary) {
  const int64_t n_blocks = CeilDiv(state.n_vectors, SearchBlockVectors(kDim));
  // Enough blocks for all multiprocessors, of as many ranges as that allows.
  int groups = 1;
  while (groups < kSearchRanges && n_blocks * groups < 2 * gpu.n_multiprocessors()) groups *= 2;
  Launch(gpu, SearchKernel<kDim>,
         {"OmpEncode Search", dim3(n_blocks, groups), kSearchThreads, SearchSharedBytes(kDim)},
         state, reinterpret_cast<const __half*>(dictionary.halves()),
         dictionary.search_range_atoms(), kSearchRanges / groups);
}

void Search(const Gpu& gpu, const OmpState& state, const Dictionary& dictionary) {
  if (state.search_dim == 64) return Search<64>(gpu, state, dictionary);
  if (state.search_dim == 128) return Search<128>(gpu, state, dictionary);
  Search<256>(gpu, state, dictionary);
}

template <int kParts>
void RunWave(const OmpEncodeArgs& args, const Gpu& gpu, int64_t first, int n) {
  const Dictionary& dictionary = AsCuda(*args.dictionary);
  const int head_dim = dictionary.head_dim();
  const int sparsity = args.sparsity;
  WorkspaceCutter cutter(gpu.workspace());
  const OmpState state(cutter, n, sparsity, dictionary);
  const float* x = args.x.as<float>() + first * head_dim;
  const float stop = std::max(args.error_threshold, static_cast<float>(kResidualStop));
  const int64_t search_blocks = CeilDiv(n, SearchBlockVectors(state.search_dim));
  const int n_rows = static_cast<int>(search_blocks) * SearchBlockVectors(state.search_dim);
  const int threads = kWarp * kPursuitWarps;
  const dim3 blocks(CeilDiv(n, kPursuitWarps));
  Launch(gpu, BeginKernel<kParts>,
         {"OmpEncode Begin", dim3(CeilDiv(n_rows, kPursuitWarps)), threads}, state, x, head_dim,
         n_rows);
  for (int step = 0; step < sparsity; ++step) {
    Search(gpu, state, dictionary);
    Launch(gpu, StepKernel<kParts>, {"OmpEncode Step", blocks, threads, PursuitSharedBytes(state)},
           state, x, head_dim, dictionary.rows(), dictionary.n_atoms(), stop);
  }
  Launch(gpu, StoreKernel<kParts>, {"OmpEncode Store", blocks, threads}, state, x, head_dim,
         dictionary.rows(), args.atoms.as_mutable<uint16_t>() + first * sparsity,
         args.coefs.as_mutable<uint8_t>() + first * sparsity,
         args.rel_error.as_mutable<float>() + first,
         reinterpret_cast<unsigned long long*>(args.n_non_finite));
}

}  // namespace

void OmpEncode(const OmpEncodeArgs& args, const Stream& stream) {
  const Gpu& gpu = GpuOf(stream);
  const int64_t n_vectors = args.x.dim(0);
  const int wave = WaveVectors(gpu, args.sparsity, AsCuda(*args.dictionary));
  for (int64_t first = 0; first < n_vectors; first += wave) {
    const int n = static_cast<int>(std::min<int64_t>(wave, n_vectors - first));
    if (args.x.dim(1) <= 128) {
      RunWave<1>(args, gpu, first, n);
    } else {
      RunWave<2>(args, gpu, first, n);
    }
  }
}

}  // namespace lexico::kernels::cuda

// Orthogonal matching pursuit for many vectors: which kernels run.
//
//   Begin    norms; the vectors, scaled to norm 1, are the first residuals
//   Search   sparsity times: the largest products of the residuals with all atoms, on tensor cores
//   Step     after each: exact choice among the candidates, least squares, new residual
//   Store    codes in FP8 and their errors
// Of many vectors Search and Step are one kernel (Fused), which runs both by turns.
//
// Vectors are taken in waves, whose state stays in L2 for the most part.
//
// Work map, shared memory and barriers: omp_search.cuh, omp_pursuit.cuh, omp_fused.cuh.
// Deterministic: no number depends on the batch around a vector; a large batch gives a block of the
// search all ranges of atoms, a small one spreads them over blocks, with the same candidates.
//
// Measured, H100 80GB, 28 Nov 2026, head_dim 128, 131,072 vectors, million a second (what was
// before in brackets): 4096 atoms and sparsity 8, 16, 24: 41.9 (18.2), 16.7 (8.0), 8.6 (4.6); 1024
// atoms: 76.6 (27.8), 27.2 (11.4), 12.4 (6.3). What bounds it are chains of
// dependent instructions in few warps, not one unit. What was tried and dropped, with figures:
// docs/adr/0007-cuda-kernels.md.
#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/omp_encode.h"
#include "kernels/cuda/omp_fused.cuh"
#include "kernels/cuda/omp_pursuit.cuh"
#include "kernels/cuda/omp_search.cuh"

namespace lexico::kernels::cuda {

OmpState::OmpState(WorkspaceCutter& cutter, int n, int sparsity, const Dictionary& dictionary)
    : n_vectors(n),
      sparsity(sparsity),
      search_dim(dictionary.search_dim()),
      atom_stride((sparsity + 7) / 8 * 8) {
  constexpr int block = kGroupVectors * kSearchGroupsMax;
  const size_t n_rows = (static_cast<size_t>(n) + block - 1) / block * block;
  const size_t vectors = n;
  residual = cutter.Take<float>(vectors * Dictionary::PackedStride(dictionary.head_dim()));
  halves = cutter.Take<__half>(n_rows * search_dim);
  candidates = cutter.Take<OmpCandidate>(vectors * kSearchRanges * kSearchClasses);
  norm = cutter.Take<double>(vectors);
  inverse_norm = cutter.Take<double>(vectors);
  factor = cutter.Take<double>(vectors * factor_doubles());
  residual_norm = cutter.Take<float>(vectors);
  coefs = cutter.Take<float>(vectors * sparsity);
  atoms = cutter.Take<uint16_t>(vectors * atom_stride);
  n_atoms = cutter.Take<int32_t>(vectors);
  exact = cutter.Take<uint8_t>(vectors);
  done = cutter.Take<uint8_t>(n_rows);
}

namespace {

// Of a wave, for each multiprocessor: two blocks of the fused kernel. The state of more than that
// would not gain: 2.7 KiB a vector at sparsity 16, and L2 holds half of it already.
constexpr int kWaveVectors = kFusedBlocks * kFusedVectors;
// From so many on, for each multiprocessor, the fused kernel fills the machine.
constexpr int kFusedFrom = kFusedVectors * 3 / 2;

constexpr int kBlockVectorsMax = kGroupVectors * kSearchGroupsMax;

// The most vectors, in whole blocks of the search, whose state fits the workspace.
int WaveVectors(const Gpu& gpu, int sparsity, const Dictionary& dictionary) {
  constexpr int block = kBlockVectorsMax;
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
  // Large blocks read the atoms less often, small ones are enough for all multiprocessors.
  int groups = kSearchGroupsMax;
  const int64_t n_groups = CeilDiv(state.n_vectors, kGroupVectors);
  while (groups > 1 && n_groups < int64_t{groups} * gpu.n_multiprocessors()) groups /= 2;
  const int64_t n_blocks = CeilDiv(n_groups, groups);
  int split = 1;
  while (split < kSearchRanges && n_blocks * split < gpu.n_multiprocessors()) split *= 2;
  const size_t shared = 1024 + StreamSharedBytes(SearchStream<kDim>::kBytes);
  Launch(gpu, SearchKernel<kDim>,
         {"OmpEncode Search", dim3(n_blocks, split), kGroupThreads * groups, shared}, state,
         reinterpret_cast<const char*>(dictionary.halves()), dictionary.search_tiles(),
         kSearchRanges / split);
}

void Search(const Gpu& gpu, const OmpState& state, const Dictionary& dictionary) {
  if (state.search_dim == 64) return Search<64>(gpu, state, dictionary);
  if (state.search_dim == 128) return Search<128>(gpu, state, dictionary);
  Search<256>(gpu, state, dictionary);
}

// What a wave's kernels are called with.
struct Wave {
  const OmpState& state;
  const OmpAtoms& atoms;
  const Dictionary& dictionary;
  const float* x;
  int head_dim;
  float stop;
};

template <int kParts, bool kPacked, int kCached, int kOwn, int kBlocks>
void Step(const Gpu& gpu, const Wave& wave) {
  Launch(gpu, StepKernel<kParts, kPacked, kCached, kOwn, kBlocks>,
         {"OmpEncode Step", dim3(CeilDiv(wave.state.n_vectors, 2 * kPursuitWarps)),
          kWarp * kPursuitWarps, PursuitSharedBytes()},
         wave.state, wave.atoms, wave.x, wave.head_dim, wave.stop);
}

// Early steps have few rows to keep in registers, so more warps fit.
template <int kParts, int kOwn>
void Step(const Gpu& gpu, const Wave& wave, int step) {
  if (wave.atoms.packed == nullptr) return Step<kParts, false, 8 / kParts, kOwn, 3>(gpu, wave);
  if (kParts == 2) return Step<2, true, 8, kOwn, 3>(gpu, wave);
  if (step <= 8) return Step<1, true, 8, kOwn, 5>(gpu, wave);
  Step<1, true, 16, kOwn, 4>(gpu, wave);
}

// Dictionaries of F16 files and heads of 65 to 128; more atoms than lanes of half a warp cost the
// fused kernel registers that it does not have.
bool FusedServes(const Gpu& gpu, const Wave& wave) {
  return wave.atoms.packed != nullptr && wave.state.search_dim == 128 &&
         wave.state.sparsity <= kHalfWarp &&
         wave.state.n_vectors >= kFusedFrom * gpu.n_multiprocessors();
}

void Fused(const Gpu& gpu, const Wave& wave) {
  Launch(gpu, FusedKernel<128, true, 8, 1>,
         {"OmpEncode Fused", dim3(CeilDiv(wave.state.n_vectors, kFusedVectors)), kFusedThreads,
          FusedSharedBytes<128>()},
         wave.state, wave.atoms, reinterpret_cast<const char*>(wave.dictionary.halves()),
         wave.dictionary.search_tiles(), wave.x, wave.head_dim, wave.stop);
}

template <int kParts>
void RunWave(const OmpEncodeArgs& args, const Gpu& gpu, int64_t first, int n) {
  const Dictionary& dictionary = AsCuda(*args.dictionary);
  const int head_dim = dictionary.head_dim();
  const int sparsity = args.sparsity;
  WorkspaceCutter cutter(gpu.workspace());
  const OmpState state(cutter, n, sparsity, dictionary);
  const OmpAtoms atoms = {dictionary.rows(), dictionary.row_stride(), dictionary.n_atoms(),
                          reinterpret_cast<const __half*>(dictionary.packed()), dictionary.norms()};
  const float* x = args.x.as<float>() + first * head_dim;
  const float stop = std::max(args.error_threshold, static_cast<float>(kResidualStop));
  const int n_rows = static_cast<int>(CeilDiv(n, kBlockVectorsMax)) * kBlockVectorsMax;
  const int threads = kWarp * kPursuitWarps;
  Launch(gpu, BeginKernel<kParts>,
         {"OmpEncode Begin", dim3(CeilDiv(n_rows, kPursuitWarps)), threads}, state, x, head_dim,
         n_rows);
  const Wave wave = {state, atoms, dictionary, x, head_dim, stop};
  if (FusedServes(gpu, wave)) {
    Fused(gpu, wave);
  } else {
    for (int step = 0; step < sparsity; ++step) {
      Search(gpu, state, dictionary);
      sparsity <= kHalfWarp ? Step<kParts, 1>(gpu, wave, step) : Step<kParts, 2>(gpu, wave, step);
    }
  }
  Launch(gpu, StoreKernel<kParts>, {"OmpEncode Store", dim3(CeilDiv(n, kPursuitWarps)), threads},
         state, x, head_dim, atoms, args.atoms.as_mutable<uint16_t>() + first * sparsity,
         args.coefs.as_mutable<uint8_t>() + first * sparsity,
         args.coefficients.data == nullptr
             ? nullptr
             : args.coefficients.as_mutable<float>() + first * sparsity,
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

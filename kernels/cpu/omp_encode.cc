// Orthogonal matching pursuit for many vectors: which search serves which batch.
//
// Per vector a pursuit needs |<r_k, d_a>| of all n_atoms atoms, `sparsity` times. Two ways:
//
//   direct  project the residual: n_atoms * head_dim 16-bit multiply-adds a step
//   Gram    <r_k, d> = <x, d> - sum_j c_j <d_j, d>: project x once, then a step reads k rows of the
//           Gram matrix G = D D^T: n_atoms * k 16-bit multiply-adds, 8 KiB a row at 4096 atoms, so
//           16 rows stay in L2
//
// At 4096 x 128, sparsity 16: direct 8.4 M multiply-adds a vector, Gram 0.52 M + 0.49 M. G itself
// costs n_atoms^2 * head_dim (32 MiB and 2.1 G at 4096): kept with the dictionary where it is
// small, otherwise made for the call when the batch is large enough to pay for it.
//
// Measured on 2 vCPUs of an EPYC Milan (AVX2; 98 GFLOP/s of FP32 a core, 24 Nov 2026), as CPU time
// of one thread a vector while other work kept both cores busy, head_dim 128, random combinations
// of trained atoms:
//   n_atoms sparsity   vectors   us     NumPy (omp_peer.py)
//      4096       16     32768   72     497
//      4096        8     32768   38     227
//      1024       16      8192   22     235
//      1024        8      8192   10      72
//      4096       16        64  173     direct
// At 4096/16 of 72: Gram scores 25 (13 when rows are in L2 already), projection 7, making G 2, the
// rest least squares and candidates. Tried and dropped: 3 x 4 tiles (spills, half as fast), Gram
// rows read without asking for them ahead (+ 24 us), 4 KiB pages under G (+ 6 us).
//
// Both searches are in 16 bits with a bound on their error; the choice is made in FP32 among the
// atoms within the bound (omp_pursuit.h), so a code does not depend on the way.
#include "kernels/cpu/omp_encode.h"

#include <hwy/aligned_allocator.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/dictionary.h"
#include "kernels/cpu/omp_pursuit.h"
#include "kernels/cpu/omp_scores.h"

namespace lexico::kernels::cpu {
namespace {

using Shorts = hwy::AlignedFreeUniquePtr<int16_t[]>;

// The Gram search starts again from an exact projection when its largest score falls to this many
// error bounds: below, a wide share of the atoms would be candidates.
constexpr float kRebaseBounds = 6;

// Where one block of vectors is read and written.
struct Block {
  const OmpEncodeArgs& args;
  int64_t begin;
  int n_vectors;

  const float* x(int i) const { return args.x.as<float>() + (begin + i) * args.x.dim(1); }
  // Returns 1 for a vector that was not finite.
  int64_t Finish(int i, Pursuit& pursuit) const {
    pursuit.Finish(args.atoms.as_mutable<uint16_t>() + (begin + i) * args.sparsity,
                   args.coefs.as_mutable<uint8_t>() + (begin + i) * args.sparsity,
                   args.rel_error.as_mutable<float>() + begin + i);
    return pursuit.finite() ? 0 : 1;
  }
};

// All vectors of a block step together, so that D is read once a step for the block.
class DirectSearch {
 public:
  DirectSearch(const Dictionary& dictionary, const OmpEncodeArgs& args, int block_vectors)
      : dictionary_(dictionary),
        buffer_(dictionary),
        quantized_(hwy::AllocateAligned<int16_t>(static_cast<size_t>(block_vectors) *
                                                 dictionary.n_pairs() * 2)),
        scores_(hwy::AllocateAligned<int16_t>(static_cast<size_t>(block_vectors) *
                                              dictionary.padded_atoms())) {
    for (int i = 0; i < block_vectors; ++i) {
      pursuits_.emplace_back(dictionary, args.sparsity, args.error_threshold);
    }
  }

  int64_t Run(const Block& block) {
    for (int i = 0; i < block.n_vectors; ++i) pursuits_[i].Begin(block.x(i));
    while (true) {
      running_.clear();
      for (int i = 0; i < block.n_vectors; ++i) {
        if (!pursuits_[i].done()) running_.push_back(&pursuits_[i]);
      }
      if (running_.empty()) break;
      StepAll();
    }
    int64_t n_non_finite = 0;
    for (int i = 0; i < block.n_vectors; ++i) n_non_finite += block.Finish(i, pursuits_[i]);
    return n_non_finite;
  }

 private:
  void StepAll() {
    const size_t stride = static_cast<size_t>(dictionary_.n_pairs()) * 2;
    for (size_t i = 0; i < running_.size(); ++i) {
      Quantize(dictionary_, running_[i]->residual(), running_[i]->residual_norm(),
               quantized_.get() + i * stride);
    }
    ProjectBlock(dictionary_, quantized_.get(), static_cast<int>(running_.size()), scores_.get());
    for (size_t i = 0; i < running_.size(); ++i) {
      const int largest = GramScores(dictionary_, scores_.get() + i * dictionary_.padded_atoms(),
                                     nullptr, nullptr, 0, buffer_);
      running_[i]->Step(buffer_, largest, kScoreOne / running_[i]->residual_norm(),
                        ProjectionErrorBound(dictionary_.head_dim()));
    }
  }

  const Dictionary& dictionary_;
  ScoreBuffer buffer_;
  Shorts quantized_;  // [block_vectors, 2 * n_pairs]
  Shorts scores_;     // [block_vectors, padded_atoms]
  std::vector<Pursuit> pursuits_;
  std::vector<Pursuit*> running_;
};

// The vectors of a block are projected together, then pursued one after another.
class GramSearch {
 public:
  GramSearch(const Dictionary& dictionary, const int16_t* gram, const OmpEncodeArgs& args,
             int block_vectors)
      : dictionary_(dictionary),
        gram_(gram),
        pursuit_(dictionary, args.sparsity, args.error_threshold),
        buffer_(dictionary),
        quantized_(hwy::AllocateAligned<int16_t>(static_cast<size_t>(block_vectors) *
                                                 dictionary.n_pairs() * 2)),
        scores_(hwy::AllocateAligned<int16_t>(static_cast<size_t>(block_vectors) *
                                              dictionary.padded_atoms())) {
    pursuit_.PrefetchFrom(gram);
  }

  int64_t Run(const Block& block) {
    const size_t stride = static_cast<size_t>(dictionary_.n_pairs()) * 2;
    for (int i = 0; i < block.n_vectors; ++i) {
      pursuit_.Begin(block.x(i));
      if (pursuit_.done()) {
        std::fill_n(quantized_.get() + i * stride, stride, int16_t{0});
      } else {
        Quantize(dictionary_, pursuit_.unit_vector(), 1, quantized_.get() + i * stride);
      }
    }
    ProjectBlock(dictionary_, quantized_.get(), block.n_vectors, scores_.get());
    int64_t n_non_finite = 0;
    for (int i = 0; i < block.n_vectors; ++i) {
      pursuit_.Begin(block.x(i));
      base_ = scores_.get() + static_cast<size_t>(i) * dictionary_.padded_atoms();
      base_scale_ = kScoreOne;
      base_coefficients_.fill(0);
      while (!pursuit_.done()) Step();
      n_non_finite += block.Finish(i, pursuit_);
    }
    return n_non_finite;
  }

 private:
  void Step() {
    float error = 0;
    int n_terms = MakeTerms(error);
    int largest = 0;
    if (n_terms >= 0) {
      largest = GramScores(dictionary_, base_, rows_.data(), factors_.data(), n_terms, buffer_);
    }
    if (n_terms < 0 || (n_terms > 0 && largest < kRebaseBounds * error)) {
      Rebase();
      n_terms = MakeTerms(error);
      largest = GramScores(dictionary_, base_, nullptr, nullptr, 0, buffer_);
    }
    pursuit_.Step(buffer_, largest, base_scale_, error);
  }

  // Terms of the scores against the base, and the bound of omp_scores.h on their error; -1 if a
  // factor does not fit 16 bits.
  int MakeTerms(float& error) {
    int n_terms = 0;
    float sum = 0;
    error = ProjectionErrorBound(dictionary_.head_dim());
    for (size_t j = 0; j < pursuit_.atoms().size(); ++j) {
      const float change = pursuit_.coefficients()[j] - base_coefficients_[j];
      if (change == 0) continue;
      const float factor = std::nearbyint(change * base_scale_);
      if (!(std::abs(factor) <= 32767)) return -1;
      rows_[n_terms] =
          gram_ + pursuit_.atoms()[j] * static_cast<size_t>(dictionary_.padded_atoms());
      factors_[n_terms] = static_cast<int16_t>(factor);
      sum += std::abs(change);
      ++n_terms;
    }
    // The last part: the residual itself is rounded to FP32, 2^-24 of each of its terms.
    error +=
        n_terms + sum * base_scale_ / 32768 + (n_terms + 1) * (1 + sum) * base_scale_ * 0x1p-24f;
    return n_terms;
  }

  // Takes the exact projection of the residual, at its own scale, as the new base.
  void Rebase() {
    Quantize(dictionary_, pursuit_.residual(), pursuit_.residual_norm(), quantized_.get());
    ProjectBlock(dictionary_, quantized_.get(), 1, base_);
    base_scale_ = kScoreOne / pursuit_.residual_norm();
    for (size_t j = 0; j < pursuit_.atoms().size(); ++j) {
      base_coefficients_[j] = pursuit_.coefficients()[j];
    }
  }

  const Dictionary& dictionary_;
  const int16_t* const gram_;
  Pursuit pursuit_;
  ScoreBuffer buffer_;
  Shorts quantized_;  // [block_vectors, 2 * n_pairs]
  Shorts scores_;     // [block_vectors, padded_atoms]

  // Scores of the vector at hand when its coefficients were base_coefficients_.
  int16_t* base_ = nullptr;
  float base_scale_ = 0;
  std::array<float, base::kSparsityMax> base_coefficients_{};
  std::array<const int16_t*, base::kSparsityMax> rows_{};
  std::array<int16_t, base::kSparsityMax> factors_{};
};

// Whether making G pays: it costs n_atoms projections at twice the price of a 16-bit one, and saves
// about sparsity - 2 projections a vector.
bool GramPays(const Dictionary& dictionary, int64_t n_vectors, int sparsity) {
  return n_vectors * (sparsity - 2) >= 2 * static_cast<int64_t>(dictionary.n_atoms());
}

// An uninitialised array that the kernel may back with 2 MiB pages: a row of G is read from
// anywhere in 32 MiB, which is four times what the second TLB reaches with 4 KiB pages.
Shorts AllocateOnLargePages(size_t n) {
  constexpr size_t kLargePage = size_t{2} << 20;
  Shorts array = hwy::AllocateAligned<int16_t>(n);
  const auto begin =
      (reinterpret_cast<uintptr_t>(array.get()) + kLargePage - 1) & ~(kLargePage - 1);
  const auto end = reinterpret_cast<uintptr_t>(array.get() + n) & ~(kLargePage - 1);
  // Advice only: without it the result is the same, and slower.
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  return array;
}

template <typename MakeSearch>
int64_t ForAllBlocks(const OmpEncodeArgs& args, int threads, const MakeSearch& make_search) {
  const int64_t n_vectors = args.x.dim(0);
  // Small batches are cut so that every thread has a share; results do not depend on the cut.
  const int64_t share = (n_vectors + 2 * threads - 1) / (2 * threads);
  const int block_vectors = static_cast<int>(std::clamp<int64_t>(share, 1, kBlockVectorsMax));
  const int64_t n_blocks = (n_vectors + block_vectors - 1) / block_vectors;
  int64_t n_non_finite = 0;
#pragma omp parallel num_threads(threads) reduction(+ : n_non_finite)
  {
    auto search = make_search(block_vectors);
#pragma omp for schedule(dynamic)
    for (int64_t b = 0; b < n_blocks; ++b) {
      const int64_t begin = b * block_vectors;
      const int n = static_cast<int>(std::min<int64_t>(block_vectors, n_vectors - begin));
      n_non_finite += search.Run({args, begin, n});
    }
  }
  return n_non_finite;
}

}  // namespace

std::shared_ptr<const PreparedDictionary> DictionaryForCoding(
    std::shared_ptr<const PreparedDictionary> dictionary, int64_t n_vectors, int sparsity,
    const Stream& stream) {
  const Dictionary& cpu = AsCpu(*dictionary);
  if (cpu.gram() != nullptr || !GramPays(cpu, n_vectors, sparsity)) return dictionary;
  return cpu.WithGram(stream.threads());
}

void OmpEncode(const OmpEncodeArgs& args, const Stream& stream) {
  const Dictionary& dictionary = AsCpu(*args.dictionary);
  const int threads = stream.threads();
  Shorts made;
  const int16_t* gram = dictionary.gram();
  if (gram == nullptr && GramPays(dictionary, args.x.dim(0), args.sparsity)) {
    made = AllocateOnLargePages(dictionary.gram_elements());
    BuildGram(dictionary, threads, made.get());
    gram = made.get();
  }
  int64_t n_non_finite = 0;
  if (gram != nullptr) {
    n_non_finite = ForAllBlocks(args, threads, [&](int block_vectors) {
      return GramSearch(dictionary, gram, args, block_vectors);
    });
  } else {
    n_non_finite = ForAllBlocks(args, threads, [&](int block_vectors) {
      return DirectSearch(dictionary, args, block_vectors);
    });
  }
  if (args.n_non_finite != nullptr) *args.n_non_finite += n_non_finite;
}

}  // namespace lexico::kernels::cpu

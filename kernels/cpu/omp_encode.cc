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

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "kernels/cpu/dictionary.h"
#include "kernels/cpu/omp_gram.h"
#include "kernels/cpu/omp_project.h"
#include "kernels/cpu/omp_pursuit.h"
#include "kernels/cpu/omp_scores.h"

namespace lexico::kernels::cpu {
namespace {

using Shorts = hwy::AlignedFreeUniquePtr<int16_t[]>;

// The Gram search starts again from a projection of the residual when the bound on the error
// exceeds this share of the residual's norm: the largest score is about a quarter of it, and every
// atom within twice the bound of that is a candidate.
constexpr float kErrorMax = 0.045f;

// Vectors taken together at most: their 16-bit forms, 6 KiB at 128 components, leave L1 to a panel,
// and 1 MiB of D is read once for 24 vectors.
constexpr int kBlockVectorsMax = 24;

// The same for the Gram search: 16 rows of 4 KiB for each stay in L2, and rows that one asks for
// arrive while the others compute.
constexpr int kGramBlockVectorsMax = 8;

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
        bytes_(dictionary.byte_panels()),
        components_(hwy::AllocateAligned<int16_t>(block_vectors * vector_stride())),
        values_(hwy::AllocateAligned<int16_t>(static_cast<size_t>(block_vectors) *
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
      if (bytes_ != nullptr) {
        ScoreInBytes();
      } else {
        ScoreInShorts();
      }
      for (size_t i = 0; i < running_.size(); ++i) running_[i]->Look(scores_[i]);
      for (size_t i = 0; i < running_.size(); ++i) running_[i]->Choose(scores_[i]);
    }
    int64_t n_non_finite = 0;
    for (int i = 0; i < block.n_vectors; ++i) n_non_finite += block.Finish(i, pursuits_[i]);
    return n_non_finite;
  }

 private:
  // Shorts that hold a vector in either form.
  size_t vector_stride() const { return static_cast<size_t>(dictionary_.row_stride()); }
  int16_t* values(size_t i) const { return values_.get() + i * dictionary_.padded_atoms(); }

  void ScoreInBytes() {
    const int n = static_cast<int>(running_.size());
    for (int i = 0; i < n; ++i) {
      vectors_[i].components =
          reinterpret_cast<int8_t*>(components_.get() + static_cast<size_t>(i) * vector_stride());
      QuantizeToBytes(*bytes_, running_[i]->residual(), vectors_[i]);
    }
    std::array<int, kBlockVectorsMax> largest;
    ProjectBytes(*bytes_, vectors_.data(), n, values_.get(), dictionary_.padded_atoms(),
                 largest.data());
    for (int i = 0; i < n; ++i) {
      scores_[i] = {.values = values(i),
                    .largest = largest[i],
                    .scale = vectors_[i].scale,
                    .error = vectors_[i].error};
    }
  }

  void ScoreInShorts() {
    const size_t n = running_.size();
    const size_t stride = static_cast<size_t>(dictionary_.n_pairs()) * 2;
    for (size_t i = 0; i < n; ++i) {
      Quantize(dictionary_, running_[i]->residual(), running_[i]->residual_norm(),
               components_.get() + i * stride);
    }
    ProjectBlock(dictionary_, components_.get(), static_cast<int>(n), values_.get());
    for (size_t i = 0; i < n; ++i) {
      scores_[i] = {.values = values(i),
                    .largest = TakeMagnitudes(dictionary_, values(i)),
                    .scale = kScoreOne / running_[i]->residual_norm(),
                    .error = ProjectionErrorBound(dictionary_.head_dim())};
    }
  }

  const Dictionary& dictionary_;
  const BytePanels* const bytes_;
  Shorts components_;  // [block_vectors, row_stride]
  Shorts values_;      // [block_vectors, padded_atoms]
  std::vector<Pursuit> pursuits_;
  std::vector<Pursuit*> running_;
  std::array<ByteVector, kBlockVectorsMax> vectors_;
  std::array<Scores, kBlockVectorsMax> scores_;
};

// One vector of the Gram search: its pursuit, and scores against the base it started from.
class GramPursuit {
 public:
  GramPursuit(const Dictionary& dictionary, const int16_t* gram, const OmpEncodeArgs& args)
      : dictionary_(dictionary),
        gram_(gram),
        pursuit_(dictionary, args.sparsity, args.error_threshold),
        values_(hwy::AllocateAligned<int16_t>(dictionary.padded_atoms())) {
    pursuit_.PrefetchFrom(gram);
  }

  void Begin(const float* x) {
    pursuit_.Begin(x);
    base_scale_ = 1;
    base_coefficients_.fill(0);
  }

  Pursuit& pursuit() { return pursuit_; }

  // Makes the terms of the next scores; false if their error would be too wide a share of the
  // scores, and the base has to be made anew.
  bool MakeTerms() {
    n_terms_ = 0;
    float sum = 0;
    bool fits = true;
    for (size_t j = 0; j < pursuit_.atoms().size(); ++j) {
      const float change = pursuit_.coefficients()[j] - base_coefficients_[j];
      if (change == 0) continue;
      const float factor = std::nearbyint(change * base_scale_ * (kFactorOne / kGramOne));
      fits = fits && std::abs(factor) <= 32767;
      terms_[n_terms_].row =
          gram_ + pursuit_.atoms()[j] * static_cast<size_t>(dictionary_.padded_atoms() / 2);
      terms_[n_terms_].factors = fits ? TwiceFactor(static_cast<int16_t>(factor)) : 0;
      sum += std::abs(change);
      ++n_terms_;
    }
    // The last part: the residual itself is rounded to FP32, 2^-24 of each of its terms.
    scores_.error = ProjectionErrorBound(dictionary_.head_dim()) + n_terms_ +
                    sum * base_scale_ * GramError(dictionary_.head_dim()) +
                    (n_terms_ + 1) * (1 + sum) * base_scale_ * 0x1p-24f;
    return fits && scores_.error <= kErrorMax * pursuit_.residual_norm() * base_scale_;
  }

  // Starts anew from the residual at its own scale: puts it in 16 bits; the caller projects that
  // to base [padded_atoms].
  void QuantizeResidual(int16_t* to, const int16_t* base) {
    base_ = base;
    Quantize(dictionary_, pursuit_.residual(), pursuit_.residual_norm(), to);
    base_scale_ = kScoreOne / pursuit_.residual_norm();
    std::copy_n(pursuit_.coefficients(), pursuit_.atoms().size(), base_coefficients_.begin());
    MakeTerms();
  }

  void Look() {
    scores_.largest = GramScores(dictionary_, base_, terms_.data(), n_terms_, values_.get());
    scores_.values = values_.get();
    scores_.scale = base_scale_;
    pursuit_.Look(scores_);
  }

  void Choose() { pursuit_.Choose(scores_); }

 private:
  const Dictionary& dictionary_;
  const int16_t* const gram_;
  Pursuit pursuit_;
  Shorts values_;  // [padded_atoms]
  Scores scores_;

  // Scores of the vector when its coefficients were base_coefficients_.
  const int16_t* base_ = nullptr;  // [padded_atoms]
  float base_scale_ = 0;
  std::array<float, base::kSparsityMax> base_coefficients_{};
  std::array<GramTerm, base::kSparsityMax> terms_{};
  int n_terms_ = 0;
};

// The vectors of a block step together, so that they are projected together: at first, and when one
// of them needs a new base.
class GramSearch {
 public:
  GramSearch(const Dictionary& dictionary, const int16_t* gram, const OmpEncodeArgs& args,
             int block_vectors)
      : dictionary_(dictionary),
        quantized_(hwy::AllocateAligned<int16_t>(static_cast<size_t>(block_vectors) *
                                                 dictionary.n_pairs() * 2)),
        bases_(hwy::AllocateAligned<int16_t>(static_cast<size_t>(block_vectors) *
                                             dictionary.padded_atoms())) {
    for (int i = 0; i < block_vectors; ++i) pursuits_.emplace_back(dictionary, gram, args);
  }

  int64_t Run(const Block& block) {
    for (int i = 0; i < block.n_vectors; ++i) pursuits_[i].Begin(block.x(i));
    bool rebase = true;
    while (true) {
      running_.clear();
      for (int i = 0; i < block.n_vectors; ++i) {
        if (!pursuits_[i].pursuit().done()) running_.push_back(&pursuits_[i]);
      }
      if (running_.empty()) break;
      for (GramPursuit* pursuit : running_) rebase = !pursuit->MakeTerms() || rebase;
      if (rebase) Rebase();
      rebase = false;
      for (GramPursuit* pursuit : running_) pursuit->Look();
      for (GramPursuit* pursuit : running_) pursuit->Choose();
    }
    int64_t n_non_finite = 0;
    for (int i = 0; i < block.n_vectors; ++i) {
      n_non_finite += block.Finish(i, pursuits_[i].pursuit());
    }
    return n_non_finite;
  }

 private:
  void Rebase() {
    const size_t stride = static_cast<size_t>(dictionary_.n_pairs()) * 2;
    for (size_t i = 0; i < running_.size(); ++i) {
      running_[i]->QuantizeResidual(quantized_.get() + i * stride,
                                    bases_.get() + i * dictionary_.padded_atoms());
    }
    ProjectBlock(dictionary_, quantized_.get(), static_cast<int>(running_.size()), bases_.get());
  }

  const Dictionary& dictionary_;
  Shorts quantized_;  // [block_vectors, 2 * n_pairs]
  Shorts bases_;      // [block_vectors, padded_atoms]
  std::vector<GramPursuit> pursuits_;
  std::vector<GramPursuit*> running_;
};

// Whether making G pays: it costs n_atoms projections at twice the price of a 16-bit one, and saves
// about sparsity - 2 projections a vector.
bool GramPays(const Dictionary& dictionary, int64_t n_vectors, int sparsity) {
  return n_vectors * (sparsity - 2) >= 2 * static_cast<int64_t>(dictionary.n_atoms());
}

template <typename MakeSearch>
int64_t ForAllBlocks(const OmpEncodeArgs& args, int threads, int block_vectors_max,
                     const MakeSearch& make_search) {
  const int64_t n_vectors = args.x.dim(0);
  // Small batches are cut so that every thread has a share; results do not depend on the cut.
  const int64_t share = (n_vectors + 2 * threads - 1) / (2 * threads);
  const int block_vectors = static_cast<int>(std::clamp<int64_t>(share, 1, block_vectors_max));
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
  std::shared_ptr<const Dictionary> with_gram;
  const int16_t* gram = dictionary.gram();
  if (gram == nullptr && GramPays(dictionary, args.x.dim(0), args.sparsity)) {
    with_gram = dictionary.WithGram(threads);
    gram = with_gram->gram();
  }
  int64_t n_non_finite = 0;
  if (gram != nullptr) {
    n_non_finite = ForAllBlocks(args, threads, kGramBlockVectorsMax, [&](int block_vectors) {
      return GramSearch(dictionary, gram, args, block_vectors);
    });
  } else {
    n_non_finite = ForAllBlocks(args, threads, kBlockVectorsMax, [&](int block_vectors) {
      return DirectSearch(dictionary, args, block_vectors);
    });
  }
  if (args.n_non_finite != nullptr) *args.n_non_finite += n_non_finite;
}

}  // namespace lexico::kernels::cpu

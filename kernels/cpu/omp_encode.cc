// Orthogonal matching pursuit for many vectors: which search serves which batch.
//
// Per vector a pursuit needs <r_k, d_a> of all n_atoms atoms, `sparsity` times. Two ways:
//
//   direct  project the residual: n_atoms * head_dim multiply-adds a step, of bytes where the
//           processor has them (AMX, AVX-512 VNNI), else of 16 bits
//   Gram    <r_k, d> = <x, d> - sum_j c_j <d_j, d>: project x, then a step reads k rows of the Gram
//           matrix G = D D^T: n_atoms * k multiply-adds, 4 KiB a row at 4096 atoms
//
// At 4096 x 128, sparsity 16: direct 8.4 M multiply-adds a vector, Gram 0.49 M and two or three
// projections of 0.52 M. G itself costs n_atoms^2 * head_dim (16 MiB and 2.1 G at 4096, 15 ms):
// kept with the dictionary where it is small, otherwise made when the batch is large enough to pay
// for it. Where AMX multiplies bytes (omp_bytes.h) the direct search serves every batch and no G is
// made: it was the faster one at 4096 atoms whatever the batch, and level with it at 1024.
//
// All searches have a bound on their error; the choice is made in FP32 among the atoms within the
// bound (omp_pursuit.h), so a code does not depend on the way.
//
// Measured on 27 Nov 2026 on 2 cores of an AMD EPYC (Zen 5), AVX-512 BF16 + VNNI, no AMX, as CPU
// time of one thread a vector while other work kept both cores busy, head_dim 128, random
// combinations of trained atoms; before: 16-bit products and a Gram matrix of 16 bits:
//   n_atoms sparsity   vectors   us   before   AVX2   before
//      4096       16     32768   18       28     33       36
//      4096       16        64   25       50     92       98
//      1024       16     32768    7        9    9.6      9.5
// At 4096/16/32768 of 18: Gram scores 6 (L2 gives 27 bytes a cycle), projections 4, candidates 4,
// least squares 2. At 64 vectors of 25: byte products 17, at nine tenths of their peak.
// On 2 vCPU (one core) of a Xeon with AMX, vectors/s of both; the machine is shared, runs differ by
// a fifth, so the two were measured in turns; before: VNNI, and the Gram search from 4096 vectors:
//   n_atoms sparsity   vectors  vectors/s   before
//      4096       16     32768       63 k     46 k
//      4096       16      4096       78 k     45 k
//      4096       16       512       76 k     50 k
//      4096       16        64       80 k     41 k
//      4096        8     32768      150 k    100 k
//      4096        8       512      172 k     86 k
//      1024       16     32768      116 k    149 k (another time 121 k and 93 k)
// There products are 36 % of the time, making scores of them 20 %, candidates 17 %, least squares
// 17 %, rounding to bytes 6 %.
// Tried and dropped: G in 16 bits (its rows come from memory: + 4 us), a common step for a whole
// block with one vector deciding when to project anew (+ 1 us), unpacking the bytes of G instead of
// shifting words (the same), rows of G asked for into L2 only (the same), 3 x 4 tiles (spills), one
// scale for all components of the 8-bit form (twice as many candidates).
#include "kernels/cpu/omp_encode.h"

#include <hwy/aligned_allocator.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <vector>

#include "kernels/cpu/dictionary.h"
#include "kernels/cpu/omp_gram.h"
#include "kernels/cpu/omp_projector.h"
#include "kernels/cpu/omp_pursuit.h"
#include "kernels/cpu/omp_scores.h"

namespace lexico::kernels::cpu {
namespace {

using Shorts = hwy::AlignedFreeUniquePtr<int16_t[]>;

// The Gram search starts again from a projection of the residual when the bound on the error
// exceeds this share of the residual's norm: the largest score is about a quarter of it, and every
// atom within twice the bound of that is a candidate. 0.035 is 5 % faster on AVX2, 0.055 on
// AVX-512.
constexpr float kErrorMax = 0.045f;

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
                   args.coefficients.data == nullptr
                       ? nullptr
                       : args.coefficients.as_mutable<float>() + (begin + i) * args.sparsity,
                   args.rel_error.as_mutable<float>() + begin + i);
    return pursuit.finite() ? 0 : 1;
  }
};

// The vectors of a block, which step together.
class PursuitBlock {
 public:
  PursuitBlock(const Dictionary& dictionary, const int16_t* gram, const OmpEncodeArgs& args,
               int block_vectors) {
    for (int i = 0; i < block_vectors; ++i) {
      pursuits_.emplace_back(dictionary, args.sparsity, args.error_threshold);
      pursuits_.back().PrefetchFrom(gram);
    }
  }

  void Begin(const Block& block) {
    for (int i = 0; i < block.n_vectors; ++i) pursuits_[i].Begin(block.x(i));
  }
  // Those that are not done.
  std::span<Pursuit* const> Running(const Block& block) {
    running_.clear();
    for (int i = 0; i < block.n_vectors; ++i) {
      if (!pursuits_[i].done()) running_.push_back(&pursuits_[i]);
    }
    return running_;
  }
  int64_t Finish(const Block& block) {
    int64_t n_non_finite = 0;
    for (int i = 0; i < block.n_vectors; ++i) n_non_finite += block.Finish(i, pursuits_[i]);
    return n_non_finite;
  }

 private:
  std::vector<Pursuit> pursuits_;
  std::vector<Pursuit*> running_;
};

// Every step projects the residuals.
class DirectSearch {
 public:
  DirectSearch(const Dictionary& dictionary, const OmpEncodeArgs& args, int block_vectors)
      : pursuits_(dictionary, nullptr, args, block_vectors),
        projector_(dictionary, block_vectors) {}

  int64_t Run(const Block& block) {
    pursuits_.Begin(block);
    for (auto running = pursuits_.Running(block); !running.empty();
         running = pursuits_.Running(block)) {
      projector_.Project(running, Projector::Precision::kRough, scores_.data());
      for (size_t i = 0; i < running.size() + kAhead; ++i) {
        if (i < running.size()) running[i]->Look(scores_[i]);
        if (i >= kAhead) running[i - kAhead]->Choose(scores_[i - kAhead]);
      }
    }
    return pursuits_.Finish(block);
  }

 private:
  // Vectors between asking for candidates and reading them: they arrive by then, and are still in
  // L1.
  static constexpr size_t kAhead = 3;

  PursuitBlock pursuits_;
  Projector projector_;
  std::array<Scores, kBlockVectorsMax> scores_;
};

// Scores of one vector from those it once had, its base, and rows of the Gram matrix.
class GramScorer {
 public:
  GramScorer(const Dictionary& dictionary, const int16_t* gram)
      : dictionary_(dictionary),
        gram_(gram),
        values_(hwy::AllocateAligned<int16_t>(dictionary.padded_atoms())),
        maxima_(hwy::AllocateAligned<int16_t>(GroupsOf(dictionary) * kGroupMaxima)) {}

  // Scores of the pursuit as it is now; valid until the next base.
  void SetBase(const Scores& base, const Pursuit& pursuit) {
    base_ = base;
    coefficients_.fill(0);
    std::copy_n(pursuit.coefficients(), pursuit.atoms().size(), coefficients_.begin());
  }

  // Prepares scores of the pursuit as it is now. False if the bound on their error would exceed
  // kErrorMax of the residual's norm, or a factor 16 bits: then a new base is needed.
  bool Prepare(const Pursuit& pursuit) {
    n_terms_ = 0;
    float sum = 0;
    for (size_t j = 0; j < pursuit.atoms().size(); ++j) {
      const float change = pursuit.coefficients()[j] - coefficients_[j];
      const float factor = std::nearbyint(change * base_.scale * (kFactorOne / kGramOne));
      if (!(std::abs(factor) <= 32767)) return false;
      terms_[n_terms_++] = {
          .row = gram_ + pursuit.atoms()[j] * static_cast<size_t>(dictionary_.padded_atoms() / 2),
          .factors = TwiceFactor(static_cast<int16_t>(factor))};
      sum += std::abs(change);
    }
    // The last part: the residual itself is rounded to FP32, 2^-24 of each of its terms.
    error_ = base_.error + n_terms_ + sum * base_.scale * GramError(dictionary_.head_dim()) +
             (n_terms_ + 1) * (1 + sum) * base_.scale * 0x1p-24f;
    return error_ <= kErrorMax * pursuit.residual_norm() * base_.scale;
  }

  // REQUIRES: Prepare() was true
  Scores Make() {
    const Scores scores = {
        .values = values_.get(), .maxima = maxima_.get(), .scale = base_.scale, .error = error_};
    GramScores(dictionary_, base_, terms_.data(), n_terms_, scores);
    return scores;
  }

 private:
  const Dictionary& dictionary_;
  const int16_t* const gram_;
  Shorts values_;  // [padded_atoms]
  Shorts maxima_;  // [n_maxima]
  Scores base_;
  std::array<float, base::kSparsityMax> coefficients_{};  // when base_ was made
  std::array<GramTerm, base::kSparsityMax> terms_{};
  int n_terms_ = 0;
  float error_ = 0;
};

// The vectors of a block are projected together, then each goes as far as rows of G take it; those
// that are not done by then are projected again.
class GramSearch {
 public:
  GramSearch(const Dictionary& dictionary, const int16_t* gram, const OmpEncodeArgs& args,
             int block_vectors)
      : pursuits_(dictionary, gram, args, block_vectors), projector_(dictionary, block_vectors) {
    for (size_t i = 0; i < kTogether; ++i) scorers_.emplace_back(dictionary, gram);
  }

  int64_t Run(const Block& block) {
    pursuits_.Begin(block);
    auto precision = Projector::Precision::kRough;
    for (auto running = pursuits_.Running(block); !running.empty();
         running = pursuits_.Running(block)) {
      projector_.Project(running, precision, scores_.data());
      for (size_t i = 0; i < running.size(); i += kTogether) {
        Advance(running.subspan(i, std::min(kTogether, running.size() - i)), scores_.data() + i);
      }
      precision = Projector::Precision::kFine;
    }
    return pursuits_.Finish(block);
  }

 private:
  // A few vectors take turns, so that the rows that one asks for arrive while the others compute.
  static constexpr size_t kTogether = 4;

  struct Lane {
    Pursuit* pursuit;
    GramScorer* scorer;
    Scores scores;
  };

  // Steps until every vector is done or needs a projection. scores [pursuits.size()]: projections.
  void Advance(std::span<Pursuit* const> pursuits, const Scores* scores) {
    lanes_.clear();
    for (size_t i = 0; i < pursuits.size(); ++i) {
      scorers_[i].SetBase(scores[i], *pursuits[i]);
      lanes_.push_back({pursuits[i], &scorers_[i], scores[i]});
      pursuits[i]->Look(scores[i]);
    }
    while (true) {
      for (Lane& lane : lanes_) lane.pursuit->Choose(lane.scores);
      std::erase_if(lanes_, [](const Lane& lane) {
        return lane.pursuit->done() || !lane.scorer->Prepare(*lane.pursuit);
      });
      if (lanes_.empty()) return;
      for (Lane& lane : lanes_) {
        lane.scores = lane.scorer->Make();
        lane.pursuit->Look(lane.scores);
      }
    }
  }

  PursuitBlock pursuits_;
  Projector projector_;
  std::array<Scores, kBlockVectorsMax> scores_;
  std::vector<GramScorer> scorers_;  // [kTogether]
  std::vector<Lane> lanes_;
};

// Whether making G pays: it costs n_atoms fine projections, and saves about sparsity - 2 rough ones
// a vector, which with what else a Gram step costs are worth an eighth of that in bytes.
bool GramPays(const Dictionary& dictionary, int64_t n_vectors, int sparsity) {
  const int64_t price = dictionary.byte_panels() != nullptr ? 8 : 2;
  return dictionary.gram_serves() && n_vectors * (sparsity - 2) >= price * dictionary.n_atoms();
}

template <typename MakeSearch>
int64_t ForAllBlocks(const OmpEncodeArgs& args, int block_vectors_max, int threads,
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
    n_non_finite = ForAllBlocks(args, BlockVectorsMax(dictionary), threads, [&](int block_vectors) {
      return GramSearch(dictionary, gram, args, block_vectors);
    });
  } else {
    n_non_finite = ForAllBlocks(args, BlockVectorsMax(dictionary), threads, [&](int block_vectors) {
      return DirectSearch(dictionary, args, block_vectors);
    });
  }
  if (args.n_non_finite != nullptr) *args.n_non_finite += n_non_finite;
}

}  // namespace lexico::kernels::cpu

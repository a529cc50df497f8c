// Each property is stated once. Inputs come from a seed that every failure prints.
#include "kernels/api/sparse_attention.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "kernels/api/merge_partials.h"
#include "kernels/api/omp_encode.h"
#include "kernels/api/reconstruct.h"
#include "kernels/cpu/sparse_attention_definition.h"
#include "tests/kernels/code_fixtures.h"
#include "tests/kernels/device_ops.h"
#include "tests/support/compare.h"

namespace lexico::kernels {
namespace {

using tests::CodedPages;
using tests::DeviceOps;
using tests::IsClose;
using tests::RandomDictionary;
using tests::RandomNormal;
using tests::SameBits;

struct Shape {
  int head_dim = 16;
  int n_atoms = 32;
  int n_kv_heads = 1;
  int group = 1;
  int sparsity_k = 4;
  int sparsity_v = 4;
  int page_tokens = 4;
  std::vector<int64_t> pages_per_seq = {2};
  DType dictionary = DType::kF16;  // of the file
  CodeForm form_k = {};
  CodeForm form_v = {};

  std::string Text() const {
    return fmt::format(
        "{} head_dim {} n_atoms {} n_kv_heads {} group {} sparsity {}/{} of {}/{} bits residual "
        "{}/{} page {} seqs {}",
        DTypeName(dictionary), head_dim, n_atoms, n_kv_heads, group, sparsity_k, sparsity_v,
        form_k.coefficient_bits, form_v.coefficient_bits, form_k.residual_bits,
        form_v.residual_bits, page_tokens, pages_per_seq.size());
  }
};

struct Outputs {
  std::vector<float> out;
  std::vector<float> max_score;
  std::vector<float> sum_exp;
};

// Rounding of any order of summation: at most one unit in 2 for each of the additions of a score
// (head_dim + sparsity), of a sum over tokens, and of a product with D_v (n_atoms). Real errors are
// far smaller, because they do not all point the same way; 64 covers the sizes used here.
constexpr double kUlps = 64;

class Problem {
 public:
  Problem(const Shape& shape, uint32_t seed, const DeviceOps& ops = DeviceOps(Stream::Cpu(1)))
      : ops_(ops),
        shape_(shape),
        random_(seed),
        layout_{.n_kv_heads = shape.n_kv_heads,
                .head_dim = shape.head_dim,
                .page_tokens = shape.page_tokens,
                .sparsity_k = shape.sparsity_k,
                .sparsity_v = shape.sparsity_v,
                .form_k = shape.form_k,
                .form_v = shape.form_v} {
    page_begin_ = {0};
    for (const int64_t n : shape.pages_per_seq) page_begin_.push_back(page_begin_.back() + n);
    dictionary_k_ = RandomDictionary(shape.n_atoms, shape.head_dim, random_, shape.dictionary);
    dictionary_v_ = RandomDictionary(shape.n_atoms, shape.head_dim, random_, shape.dictionary);
    pages_ = std::make_unique<CodedPages>(layout_, page_begin_.back(), shape.n_atoms, random_);
    q_ = RandomNormal(n_seqs() * n_heads() * shape.head_dim, random_);
    scale_ = 1 / std::sqrt(static_cast<float>(shape.head_dim));
  }

  int64_t n_seqs() const { return static_cast<int64_t>(shape_.pages_per_seq.size()); }
  int64_t n_heads() const { return static_cast<int64_t>(shape_.n_kv_heads) * shape_.group; }
  std::vector<float>& q() { return q_; }
  CodedPages& pages() { return *pages_; }
  const PageLayout& layout() const { return layout_; }
  const std::vector<int64_t>& page_begin() const { return page_begin_; }
  void set_scale(float scale) { scale_ = scale; }
  // Of its pages, what every sequence has.
  void set_n_pages(std::vector<int32_t> n_pages) { n_pages_ = std::move(n_pages); }

  TensorView OutView(const std::vector<float>& v) const {
    return TensorView(v.data(), {n_seqs(), n_heads(), shape_.head_dim});
  }
  TensorView HeadView(const std::vector<float>& v) const {
    return TensorView(v.data(), {n_seqs(), n_heads()});
  }

  SparseAttentionArgs Args(Outputs& outputs) const {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    outputs.out.assign(q_.size(), nan);
    outputs.max_score.assign(n_seqs() * n_heads(), nan);
    outputs.sum_exp.assign(n_seqs() * n_heads(), nan);
    SparseAttentionArgs args;
    args.q = OutView(q_);
    args.pages = pages_->pages();
    args.page_begin = page_begin_.data();
    args.n_pages = n_pages_.empty() ? nullptr : n_pages_.data();
    args.layout = layout_;
    args.dictionary_k = shape_.sparsity_k > 0 ? dictionary_k_.get() : nullptr;
    args.dictionary_v = shape_.sparsity_v > 0 ? dictionary_v_.get() : nullptr;
    args.scale = scale_;
    args.out = MutableTensorView(outputs.out.data(), {n_seqs(), n_heads(), shape_.head_dim});
    args.max_score = MutableTensorView(outputs.max_score.data(), {n_seqs(), n_heads()});
    args.sum_exp = MutableTensorView(outputs.sum_exp.data(), {n_seqs(), n_heads()});
    return args;
  }

  Outputs Run() const { return Run(ops_); }
  Outputs Run(const DeviceOps& ops) const {
    Outputs outputs;
    ops.SparseAttention(Args(outputs));
    return outputs;
  }

  void ExpectMatchesDefinition(double ulps = kUlps) const {
    Outputs expected;
    Outputs magnitude;
    const SparseAttentionArgs magnitudes = Args(magnitude);
    definition::SparseAttention(Args(expected),
                                {magnitudes.out, magnitudes.max_score, magnitudes.sum_exp});
    const Outputs actual = Run();
    EXPECT_TRUE(IsClose(HeadView(actual.max_score), HeadView(expected.max_score),
                        HeadView(magnitude.max_score), ulps));
    EXPECT_TRUE(IsClose(HeadView(actual.sum_exp), HeadView(expected.sum_exp),
                        HeadView(magnitude.sum_exp), ulps));
    EXPECT_TRUE(IsClose(OutView(actual.out), OutView(expected.out), OutView(magnitude.out), ulps));
  }

  void ExpectSameBits(const Outputs& a, const Outputs& b) const {
    EXPECT_TRUE(SameBits(OutView(a.out), OutView(b.out)));
    EXPECT_TRUE(SameBits(HeadView(a.max_score), HeadView(b.max_score)));
    EXPECT_TRUE(SameBits(HeadView(a.sum_exp), HeadView(b.sum_exp)));
  }

  std::shared_ptr<const PreparedDictionary> dictionary_k() const { return dictionary_k_; }
  std::shared_ptr<const PreparedDictionary> dictionary_v() const { return dictionary_v_; }

 private:
  DeviceOps ops_;
  Shape shape_;
  std::mt19937 random_;
  PageLayout layout_;
  std::vector<int64_t> page_begin_;
  std::vector<int32_t> n_pages_;
  std::shared_ptr<const PreparedDictionary> dictionary_k_;
  std::shared_ptr<const PreparedDictionary> dictionary_v_;
  std::unique_ptr<CodedPages> pages_;
  std::vector<float> q_;
  float scale_ = 0;
};

class SparseAttentionTest : public tests::DeviceTest {};
LEXICO_TEST_ON_ALL_DEVICES(SparseAttentionTest);

TEST_P(SparseAttentionTest, MatchesDefinitionOnAllSmallShapes) {
  uint32_t seed = 1;
  for (const int head_dim : {8, 12, 16, 40, 64}) {
    for (const int group : {1, 2, 3, 4, 5, 8, 16, 17}) {
      for (const int sparsity : {1, 3, 6}) {
        for (const int page_tokens : {2, 6}) {
          const Shape shape{.head_dim = head_dim,
                            .n_atoms = 16 + static_cast<int>(seed % 40),
                            .n_kv_heads = 1 + static_cast<int>(seed % 2),
                            .group = group,
                            .sparsity_k = sparsity,
                            .sparsity_v = sparsity % 3 + 1,
                            .page_tokens = page_tokens,
                            .pages_per_seq = {1, 0, 2},
                            .dictionary = seed % 3 == 0 ? DType::kF32 : DType::kF16};
          SCOPED_TRACE(fmt::format("{} seed {}", shape.Text(), seed));
          Problem(shape, seed++, Ops()).ExpectMatchesDefinition();
        }
      }
    }
  }
}

TEST_P(SparseAttentionTest, MatchesDefinitionOnModelShapes) {
  for (const int head_dim : {96, 128, 256}) {
    const Shape shape{.head_dim = head_dim,
                      .n_atoms = 1024,
                      .n_kv_heads = 2,
                      .group = 4,
                      .sparsity_k = 16,
                      .sparsity_v = 8,
                      .page_tokens = 32,
                      .pages_per_seq = {3}};
    SCOPED_TRACE(shape.Text());
    Problem(shape, 7, Ops()).ExpectMatchesDefinition();
  }
}

TEST_P(SparseAttentionTest, MatchesDefinitionAtTheLargestSparsityAndDictionary) {
  Problem(Shape{.head_dim = 64, .n_atoms = 8192, .sparsity_k = 64, .sparsity_v = 64}, 8, Ops())
      .ExpectMatchesDefinition();
}

// 4096 tokens are one split (sparse_attention.cc); 4096 + 2 pages make two and a remainder.
TEST_P(SparseAttentionTest, SequencesOfSeveralSplitsMatchDefinition) {
  const Shape shape{.head_dim = 8,
                    .n_atoms = 16,
                    .group = 2,
                    .sparsity_k = 2,
                    .sparsity_v = 2,
                    .page_tokens = 64,
                    .pages_per_seq = {66, 130}};
  // Sums over 8320 tokens: the bound grows with their number, the error with its root.
  Problem(shape, 9, Ops()).ExpectMatchesDefinition(/*ulps=*/512);
}

TEST_P(SparseAttentionTest, EmptySequenceGivesZeroSumAndMinusInfinityMax) {
  const Problem problem(Shape{.group = 2, .pages_per_seq = {0, 1}}, 10, Ops());
  const Outputs outputs = problem.Run();
  for (int h = 0; h < 2; ++h) {
    EXPECT_EQ(outputs.max_score[h], -std::numeric_limits<float>::infinity());
    EXPECT_EQ(outputs.sum_exp[h], 0);
    for (int i = 0; i < 16; ++i) EXPECT_EQ(outputs.out[h * 16 + i], 0);
    EXPECT_GT(outputs.sum_exp[2 + h], 0);
  }
}

// The op against attention over what Reconstruct makes of the same pages: a misunderstanding of
// the layout shared by the op and its definition would show here.
void ExpectEqualsDenseAttention(const Shape& shape, const DeviceOps& ops) {
  SCOPED_TRACE(shape.Text());
  Problem problem(shape, 11, ops);
  const int dim = shape.head_dim;
  const int64_t n_pages = shape.pages_per_seq[0];
  const int64_t n_tokens = n_pages * shape.page_tokens;
  std::vector<float> dense[2];
  Outputs unused;
  const SparseAttentionArgs attention = problem.Args(unused);
  for (const bool value : {false, true}) {
    dense[value].resize(n_tokens * shape.n_kv_heads * dim);
    ReconstructArgs args;
    args.pages = problem.pages().pages();
    args.n_pages = n_pages;
    args.layout = problem.layout();
    args.dictionary = value ? attention.dictionary_v : attention.dictionary_k;
    args.value = value;
    args.out = MutableTensorView(dense[value].data(), {n_tokens, shape.n_kv_heads, dim});
    ops.Reconstruct(args);
  }
  const Outputs outputs = problem.Run();
  for (int head = 0; head < problem.n_heads(); ++head) {
    const int kv_head = head / shape.group;
    std::vector<double> score(n_tokens);
    double max = -1e300;
    for (int64_t t = 0; t < n_tokens; ++t) {
      for (int i = 0; i < dim; ++i) {
        score[t] +=
            problem.q()[head * dim + i] * dense[0][(t * shape.n_kv_heads + kv_head) * dim + i];
      }
      score[t] /= std::sqrt(static_cast<double>(dim));
      max = std::max(max, score[t]);
    }
    double sum = 0;
    for (int64_t t = 0; t < n_tokens; ++t) sum += std::exp(score[t] - max);
    EXPECT_NEAR(outputs.sum_exp[head], sum, 1e-4 * sum) << "head " << head;
    for (int i = 0; i < dim; ++i) {
      double expected = 0;
      for (int64_t t = 0; t < n_tokens; ++t) {
        expected += std::exp(score[t] - max) * dense[1][(t * shape.n_kv_heads + kv_head) * dim + i];
      }
      EXPECT_NEAR(outputs.out[head * dim + i], expected, 1e-4 * sum) << "head " << head;
    }
  }
}

TEST_P(SparseAttentionTest, EqualsDenseAttentionOverReconstructedVectors) {
  ExpectEqualsDenseAttention({.head_dim = 32,
                              .n_atoms = 64,
                              .n_kv_heads = 2,
                              .group = 2,
                              .sparsity_k = 5,
                              .sparsity_v = 3,
                              .page_tokens = 8,
                              .pages_per_seq = {3}},
                             Ops());
}

// Shapes of every kind of code beside the paper's, K and V different.
std::vector<Shape> FamilyShapes(int head_dim, int group, int page_tokens) {
  struct Half {
    int sparsity;
    CodeForm form;
  };
  const Half halves[] = {{4, {4, 0}}, {0, {8, 1}}, {3, {4, 1}}, {0, {8, 2}}, {2, {4, 2}},
                         {1, {8, 2}}, {0, {8, 3}}, {6, {4, 3}}, {5, {8, 0}}};
  std::vector<Shape> shapes;
  for (size_t i = 0; i < std::size(halves); ++i) {
    const Half& k = halves[i];
    const Half& v = halves[(i * 5 + 2) % std::size(halves)];
    shapes.push_back({.head_dim = head_dim,
                      .n_atoms = 40,
                      .n_kv_heads = 1 + static_cast<int>(i % 2),
                      .group = group,
                      .sparsity_k = k.sparsity,
                      .sparsity_v = v.sparsity,
                      .page_tokens = page_tokens,
                      .pages_per_seq = {3, 0, 2},
                      .form_k = k.form,
                      .form_v = v.form});
  }
  return shapes;
}

class SparseFamilyTest : public tests::DeviceTest {};
LEXICO_TEST_ON_ALL_DEVICES(SparseFamilyTest);

TEST_P(SparseFamilyTest, MatchesDefinition) {
  uint32_t seed = 100;
  for (const int head_dim : {8, 16, 32, 64, 128, 256}) {
    for (const int group : {1, 2, 3, 5, 8, 16, 17}) {
      for (const Shape& shape : FamilyShapes(head_dim, group, group % 2 == 0 ? 2 : 34)) {
        SCOPED_TRACE(fmt::format("{} seed {}", shape.Text(), seed));
        Problem(shape, seed++, Ops()).ExpectMatchesDefinition();
      }
    }
  }
}

// Pages as a worker has them, several tiles a sequence, runs of 8, 4, 2 and 1 codes.
TEST_P(SparseFamilyTest, MatchesDefinitionOnModelShapes) {
  uint32_t seed = 300;
  for (const int head_dim : {64, 128, 256}) {
    for (const auto& [k, v] : {std::pair<VectorCode, VectorCode>{{2, {4, 2, true}}, {4, {4, 1}}},
                               {{16, {4, 0}}, {16, {8, 0}}},
                               {{8, {8, 1}}, {24, {4, 3}}},
                               {{0, {8, 3}}, {0, {8, 2}}},
                               {{5, {4, 3}}, {7, {4, 0}}}}) {
      const Shape shape{.head_dim = head_dim,
                        .n_atoms = 1024,
                        .n_kv_heads = 2,
                        .group = 4,
                        .sparsity_k = k.sparsity,
                        .sparsity_v = v.sparsity,
                        .page_tokens = 32,
                        .pages_per_seq = {7, 1},
                        .form_k = k.form,
                        .form_v = v.form};
      SCOPED_TRACE(shape.Text());
      Problem(shape, seed++, Ops()).ExpectMatchesDefinition();
    }
  }
}

TEST_P(SparseFamilyTest, CodesOfAtomsServeHeadsThatCannotBeRotated) {
  for (const int head_dim : {12, 96}) {
    for (const int coefficient_bits : {4, 8}) {
      const Shape shape{.head_dim = head_dim,
                        .group = 3,
                        .sparsity_k = 16 / coefficient_bits,
                        .sparsity_v = 6,
                        .form_k = {.coefficient_bits = coefficient_bits},
                        .form_v = {.coefficient_bits = 12 - coefficient_bits}};
      SCOPED_TRACE(shape.Text());
      Problem(shape, 23, Ops()).ExpectMatchesDefinition();
    }
  }
}

TEST_P(SparseFamilyTest, EqualsDenseAttentionOverReconstructedVectors) {
  for (const int head_dim : {32, 128, 256}) {
    for (const Shape& shape : FamilyShapes(head_dim, 2, 8))
      ExpectEqualsDenseAttention(shape, Ops());
  }
}

TEST_P(SparseFamilyTest, SameBitsWithOtherThreadCountsOverSeveralSplits) {
  for (Shape shape : FamilyShapes(16, 4, 64)) {
    shape.pages_per_seq = {140, 3};
    SCOPED_TRACE(shape.Text());
    const Problem problem(shape, 14, Ops());
    const Outputs first = problem.Run();
    problem.ExpectMatchesDefinition(/*ulps=*/512);
    for (const int threads : {1, 2, 5}) problem.ExpectSameBits(problem.Run(Ops(threads)), first);
  }
}

TEST_P(SparseFamilyTest, NeighboursDoNotChangeBits) {
  for (Shape shape : FamilyShapes(128, 2, 4)) {
    SCOPED_TRACE(shape.Text());
    shape.n_kv_heads = 1;
    shape.pages_per_seq = {2, 30};
    Problem problem(shape, 15, Ops());
    const Outputs both = problem.Run();
    Outputs alone;
    SparseAttentionArgs args = problem.Args(alone);
    const int64_t page_begin[] = {0, 30};
    args.q = TensorView(problem.q().data() + 2 * 128, {1, 2, 128});
    args.pages += 2;
    args.page_begin = page_begin;
    args.out = MutableTensorView(alone.out.data(), {1, 2, 128});
    args.max_score = MutableTensorView(alone.max_score.data(), {1, 2});
    args.sum_exp = MutableTensorView(alone.sum_exp.data(), {1, 2});
    Ops(/*threads=*/2).SparseAttention(args);
    EXPECT_TRUE(SameBits(args.out, TensorView(both.out.data() + 2 * 128, {1, 2, 128})));
  }
}

TEST_P(SparseFamilyTest, SequencesMayHaveFewerPagesThanTheirPlaces) {
  for (Shape shape : FamilyShapes(64, 4, 4)) {
    SCOPED_TRACE(shape.Text());
    shape.pages_per_seq = {8, 16, 70, 0, 3};
    Problem problem(shape, 31, Ops());
    for (const std::vector<int32_t>& n_pages :
         {std::vector<int32_t>{1, 9, 41, 0, 0}, {9, 17, 70, 5, 3}}) {
      problem.set_n_pages(n_pages);
      problem.ExpectMatchesDefinition();
    }
    const Outputs with_counts = problem.Run();
    problem.set_n_pages({});
    problem.ExpectSameBits(with_counts, problem.Run());
  }
}

TEST_P(SparseFamilyTest, EmptySequencesAndZeroCodesGiveZeros) {
  for (Shape shape : FamilyShapes(128, 2, 8)) {
    SCOPED_TRACE(shape.Text());
    shape.n_kv_heads = 1;
    shape.pages_per_seq = {0, 1};
    Problem problem(shape, 17, Ops());
    std::fill_n(problem.pages().page(0), problem.layout().payload_bytes(), uint8_t{0});
    const Outputs outputs = problem.Run();
    EXPECT_EQ(outputs.max_score,
              std::vector<float>({-std::numeric_limits<float>::infinity(),
                                  -std::numeric_limits<float>::infinity(), 0, 0}));
    EXPECT_EQ(outputs.sum_exp, std::vector<float>({0, 0, 8, 8}));
    for (const float value : outputs.out) EXPECT_EQ(value, 0);
  }
}

// Weights of an item whose shares differ by more than an integer's range, and scales of all sizes.
TEST_P(SparseFamilyTest, FewTokensOutweighAllOthers) {
  for (Shape shape : FamilyShapes(64, 4, 32)) {
    SCOPED_TRACE(shape.Text());
    shape.pages_per_seq = {20};
    Problem problem(shape, 20, Ops());
    for (const float scale : {3.0f, 30.0f}) {
      problem.set_scale(scale);
      problem.ExpectMatchesDefinition();
    }
  }
}

TEST_P(SparseFamilyTest, PagesMayLieAtAnOffsetFromTheirPointers) {
  for (const Shape& shape : FamilyShapes(128, 2, 2)) {
    SCOPED_TRACE(shape.Text());
    Problem problem(shape, 18, Ops());
    const Outputs expected = problem.Run();
    const CodedPages::InBlocks blocks(problem.pages(), 192);
    Outputs actual;
    SparseAttentionArgs args = problem.Args(actual);
    args.pages = blocks.pages();
    args.page_offset = 192;
    Ops().SparseAttention(args);
    problem.ExpectSameBits(actual, expected);
  }
}

TEST_P(SparseFamilyTest, SmallWorkspacesGiveTheSameBits) {
  if (!on_gpu()) GTEST_SKIP() << "the CPU's op has no workspace";
  for (Shape shape : FamilyShapes(64, 5, 32)) {
    SCOPED_TRACE(shape.Text());
    shape.pages_per_seq = {2, 0, 40, 1, 7};
    const Problem problem(shape, 19, Ops());
    const Outputs expected = problem.Run();
    problem.ExpectSameBits(problem.Run(OpsWithWorkspace(100 << 10)), expected);
  }
}

TEST_P(SparseFamilyTest, SequencesDoNotSeeEachOthersPages) {
  for (Shape shape : FamilyShapes(16, 2, 4)) {
    shape.pages_per_seq = {1, 2};
    SCOPED_TRACE(shape.Text());
    Problem problem(shape, 13, Ops());
    const Outputs clean = problem.Run();
    problem.pages().Poison(0);
    const Outputs poisoned = problem.Run();
    const size_t n = clean.out.size() / 2;
    for (size_t i = 0; i < n; ++i) {
      EXPECT_TRUE(std::isnan(poisoned.out[i]));
      EXPECT_EQ(poisoned.out[n + i], clean.out[n + i]);
    }
  }
}

TEST(SparseFamilyDeathTest, RejectsWhatACodeNeedsAndIsNotThere) {
  const Problem problem(Shape{.sparsity_k = 4, .form_k = {4, 1}}, 18);
  Outputs outputs;
  SparseAttentionArgs args = problem.Args(outputs);
  args.dictionary_k = nullptr;
  EXPECT_DEATH(SparseAttention(args, Stream::Cpu(1)), "dictionary != nullptr");
  args = problem.Args(outputs);
  args.layout.form_v.residual_bits = 4;
  EXPECT_DEATH(SparseAttention(args, Stream::Cpu(1)), "residual_bits");
  std::mt19937 random(2);
  const auto large = RandomDictionary(4100, 16, random);
  args = problem.Args(outputs);
  args.dictionary_k = large.get();
  EXPECT_DEATH(SparseAttention(args, Stream::Cpu(1)), "n_atoms\\(\\) \\(4100\\)");
}

TEST_P(SparseAttentionTest, SplitsAgreeWithUnsplit) {
  const Shape whole{.group = 3, .pages_per_seq = {10}};
  Problem problem(whole, 12, Ops());
  const Outputs expected = problem.Run();
  // The same pages as two calls over 4 and 6 of them, merged.
  Outputs parts[2];
  std::vector<AttentionPart> merge;
  const int64_t cuts[] = {0, 4, 10};
  for (int p = 0; p < 2; ++p) {
    SparseAttentionArgs args = problem.Args(parts[p]);
    const int64_t page_begin[] = {0, cuts[p + 1] - cuts[p]};
    args.pages += cuts[p];
    args.page_begin = page_begin;
    Ops(/*threads=*/2).SparseAttention(args);
    merge.push_back({args.out, args.max_score, args.sum_exp});
  }
  std::vector<float> merged(expected.out.size());
  Ops().MergePartials(merge, MutableTensorView(merged.data(), {1, 3, 16}));
  for (size_t i = 0; i < merged.size(); ++i) {
    EXPECT_NEAR(merged[i], expected.out[i] / expected.sum_exp[i / 16], 1e-5) << i;
  }
}

TEST_P(SparseAttentionTest, SequencesDoNotSeeEachOthersPages) {
  const Shape shape{.group = 2, .pages_per_seq = {2, 3, 2}};
  Problem problem(shape, 13, Ops());
  const Outputs clean = problem.Run();
  for (const int64_t page : {0, 1, 5, 6}) problem.pages().Poison(page);
  const Outputs poisoned = problem.Run();
  const size_t n = 2 * 16;
  for (size_t i = 0; i < n; ++i) {
    EXPECT_TRUE(std::isnan(poisoned.out[i])) << "the poison must be visible to its own sequence";
    EXPECT_EQ(poisoned.out[n + i], clean.out[n + i]) << i;
    EXPECT_TRUE(std::isnan(poisoned.out[2 * n + i]));
  }
}

TEST_P(SparseAttentionTest, SameBitsOnSecondRunAndWithOtherThreadCounts) {
  const Shape shape{.head_dim = 32,
                    .n_atoms = 1100,
                    .n_kv_heads = 2,
                    .group = 4,
                    .page_tokens = 64,
                    .pages_per_seq = {140, 3}};
  const Problem problem(shape, 14, Ops());
  const Outputs first = problem.Run();
  for (const int threads : {1, 2, 3, 7}) {
    SCOPED_TRACE(threads);
    problem.ExpectSameBits(problem.Run(Ops(threads)), first);
  }
}

TEST_P(SparseAttentionTest, NeighboursDoNotChangeBits) {
  const Shape together{.group = 2, .pages_per_seq = {2, 3}};
  Problem problem(together, 15, Ops());
  const Outputs both = problem.Run();
  Outputs alone;
  SparseAttentionArgs args = problem.Args(alone);
  const int64_t page_begin[] = {0, 3};
  args.q = TensorView(problem.q().data() + 2 * 16, {1, 2, 16});
  args.pages += 2;
  args.page_begin = page_begin;
  args.out = MutableTensorView(alone.out.data(), {1, 2, 16});
  args.max_score = MutableTensorView(alone.max_score.data(), {1, 2});
  args.sum_exp = MutableTensorView(alone.sum_exp.data(), {1, 2});
  Ops(/*threads=*/2).SparseAttention(args);
  EXPECT_TRUE(SameBits(args.out, TensorView(both.out.data() + 2 * 16, {1, 2, 16})));
}

TEST_P(SparseAttentionTest, PagesMayLieAtAnOffsetFromTheirPointers) {
  for (const int sparsity : {4, 5}) {
    const Shape shape{.sparsity_k = sparsity, .sparsity_v = sparsity, .pages_per_seq = {3, 2}};
    Problem problem(shape, 18, Ops());
    const Outputs expected = problem.Run();
    for (const int64_t offset : {64, 192}) {
      const CodedPages::InBlocks blocks(problem.pages(), offset);
      Outputs actual;
      SparseAttentionArgs args = problem.Args(actual);
      args.pages = blocks.pages();
      args.page_offset = offset;
      Ops().SparseAttention(args);
      problem.ExpectSameBits(actual, expected);
      Outputs magnitude;
      const SparseAttentionArgs magnitudes = problem.Args(magnitude);
      definition::SparseAttention(args, {magnitudes.out, magnitudes.max_score, magnitudes.sum_exp});
      EXPECT_TRUE(IsClose(args.out, problem.OutView(expected.out), magnitudes.out, kUlps));
    }
  }
}

// As where a step is planned for more pages than sequences have yet.
TEST_P(SparseAttentionTest, SequencesMayHaveFewerPagesThanTheirPlaces) {
  for (const int group : {1, 4}) {
    Shape shape{.head_dim = 16, .n_atoms = 64, .n_kv_heads = 2, .group = group};
    shape.pages_per_seq = {8, 8, 16, 100, 0, 3};
    Problem problem(shape, 31, Ops());
    for (const std::vector<int32_t>& n_pages :
         {std::vector<int32_t>{1, 8, 9, 41, 0, 3}, {7, 0, 16, 1, 0, 2}, {9, 8, 17, 100, 5, 3}}) {
      problem.set_n_pages(n_pages);
      problem.ExpectMatchesDefinition();
    }
    // The last of them have all of their pages: what stands there changes no bit.
    const Outputs with_counts = problem.Run();
    problem.set_n_pages({});
    problem.ExpectSameBits(with_counts, problem.Run());
  }
}

// What a sequence gives follows from its pages and its place, not from what lies in the rest.
TEST_P(SparseAttentionTest, PagesPastTheLastAreNotRead) {
  Shape shape{.head_dim = 16, .n_atoms = 64, .n_kv_heads = 2, .group = 4};
  shape.pages_per_seq = {72};
  Problem problem(shape, 32, Ops());
  problem.set_n_pages({66});
  const Outputs before = problem.Run();
  for (int64_t page = 66; page < 72; ++page) problem.pages().Poison(page);
  problem.ExpectSameBits(before, problem.Run());
}

TEST_P(SparseAttentionTest, LargeScoresDoNotOverflow) {
  Problem problem(Shape{.group = 2, .pages_per_seq = {4}}, 16, Ops());
  problem.set_scale(1e4f);
  problem.ExpectMatchesDefinition();
  for (const float sum : problem.Run().sum_exp) EXPECT_GE(sum, 1.0f);
}

TEST_P(SparseAttentionTest, UnusedPlacesAddNothing) {
  const Shape shape{.sparsity_k = 3, .sparsity_v = 3, .pages_per_seq = {1}};
  Problem problem(shape, 17, Ops());
  const PageLayout& layout = problem.layout();
  std::fill_n(problem.pages().page(0), layout.payload_bytes(), uint8_t{0});
  const Outputs outputs = problem.Run();
  EXPECT_EQ(outputs.max_score[0], 0);
  EXPECT_EQ(outputs.sum_exp[0], 4);
  for (const float value : outputs.out) EXPECT_EQ(value, 0);
}

// A GPU's workspace decides how many sequences, and then how many heads of one, are taken together.
TEST_P(SparseAttentionTest, SmallWorkspacesGiveTheSameBits) {
  if (!on_gpu()) GTEST_SKIP() << "the CPU's op has no workspace";
  const Shape shape{.head_dim = 32,
                    .n_atoms = 200,
                    .n_kv_heads = 3,
                    .group = 5,
                    .page_tokens = 32,
                    .pages_per_seq = {2, 0, 40, 1, 7}};
  const Problem problem(shape, 19, Ops());
  const Outputs expected = problem.Run();
  problem.ExpectMatchesDefinition();
  for (const size_t bytes : {48 << 10, 100 << 10, 300 << 10}) {
    SCOPED_TRACE(bytes);
    problem.ExpectSameBits(problem.Run(OpsWithWorkspace(bytes)), expected);
  }
}

// Weights of an item whose shares differ by more than an integer's range, and codes of all sizes.
TEST_P(SparseAttentionTest, FewTokensOutweighAllOthers) {
  for (const float scale : {3.0f, 30.0f}) {
    SCOPED_TRACE(scale);
    Problem problem(Shape{.head_dim = 64,
                          .n_atoms = 256,
                          .group = 4,
                          .sparsity_k = 8,
                          .sparsity_v = 12,
                          .page_tokens = 32,
                          .pages_per_seq = {20}},
                    20, Ops());
    problem.set_scale(scale);
    problem.ExpectMatchesDefinition();
  }
}

class SparseAttentionDeathTest : public testing::Test {
 protected:
  SparseAttentionDeathTest() { args_ = problem_.Args(outputs_); }
  void Run() { SparseAttention(args_, Stream::Cpu(1)); }

  Problem problem_{Shape{}, 18};
  Outputs outputs_;
  SparseAttentionArgs args_;
};

TEST_F(SparseAttentionDeathTest, RejectsScaleZero) {
  args_.scale = 0;
  EXPECT_DEATH(Run(), "args.scale");
}
TEST_F(SparseAttentionDeathTest, RejectsDensePages) {
  args_.layout.sparsity_k = 0;
  EXPECT_DEATH(Run(), "is_dense");
}
TEST_F(SparseAttentionDeathTest, RejectsHeadsThatAreNoMultipleOfKvHeads) {
  args_.layout.n_kv_heads = 2;
  EXPECT_DEATH(Run(), "n_heads % args.layout.n_kv_heads");
}
TEST_F(SparseAttentionDeathTest, RejectsADictionaryOfAnotherHeadDim) {
  std::mt19937 random(1);
  const auto other = RandomDictionary(16, 8, random);
  args_.dictionary_v = other.get();
  EXPECT_DEATH(Run(), "head_dim \\(16\\) == dictionary->head_dim\\(\\) \\(8\\)");
}
TEST_F(SparseAttentionDeathTest, RejectsDecreasingPageBegins) {
  const int64_t page_begin[] = {0, -1};
  args_.page_begin = page_begin;
  EXPECT_DEATH(Run(), "page_begin");
}
TEST_F(SparseAttentionDeathTest, RejectsAnOutputOfAnotherShape) {
  args_.out.shape[1] = 2;
  EXPECT_DEATH(Run(), "args.out.dim\\(1\\)");
}

}  // namespace
}  // namespace lexico::kernels

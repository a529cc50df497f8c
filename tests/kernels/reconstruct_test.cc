#include "kernels/api/reconstruct.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "kernels/api/omp_encode.h"
#include "kernels/cpu/reconstruct_definition.h"
#include "tests/kernels/code_fixtures.h"
#include "tests/kernels/device_ops.h"
#include "tests/support/compare.h"

namespace lexico::kernels {
namespace {

using tests::CodedPages;
using tests::IsClose;
using tests::SameBits;

struct Problem {
  Problem(const PageLayout& page_layout, int64_t n_pages, int n_atoms, uint32_t seed)
      : random(seed),
        layout(page_layout),
        dictionary(tests::RandomDictionary(n_atoms, layout.head_dim, random)),
        pages(layout, n_pages, n_atoms, random) {}

  ReconstructArgs Args(bool value, std::vector<float>& out) const {
    const int64_t n_tokens = pages.n_pages() * layout.page_tokens;
    out.assign(n_tokens * layout.n_kv_heads * layout.head_dim,
               std::numeric_limits<float>::quiet_NaN());
    ReconstructArgs args;
    args.pages = pages.pages();
    args.n_pages = pages.n_pages();
    args.layout = layout;
    args.dictionary = dictionary.get();
    args.value = value;
    args.out = MutableTensorView(out.data(), {n_tokens, layout.n_kv_heads, layout.head_dim});
    return args;
  }

  std::vector<float> Run(bool value, const tests::DeviceOps& ops) const {
    std::vector<float> out;
    ops.Reconstruct(Args(value, out));
    return out;
  }

  std::mt19937 random;
  PageLayout layout;
  std::shared_ptr<const PreparedDictionary> dictionary;
  CodedPages pages;
};

PageLayout Layout(int n_kv_heads, int head_dim, int page_tokens, int sparsity_k, int sparsity_v) {
  return {.n_kv_heads = n_kv_heads,
          .head_dim = head_dim,
          .page_tokens = page_tokens,
          .sparsity_k = sparsity_k,
          .sparsity_v = sparsity_v};
}

class ReconstructTest : public tests::DeviceTest {};
LEXICO_TEST_ON_ALL_DEVICES(ReconstructTest);

TEST_P(ReconstructTest, MatchesDefinition) {
  uint32_t seed = 1;
  for (const int head_dim : {1, 8, 15, 16, 64, 100, 128, 256}) {
    for (const int sparsity : {1, 5, 16, 64}) {
      const Problem problem(Layout(2, head_dim, 4, sparsity, sparsity % 7 + 1), 3, 40, seed++);
      for (const bool value : {false, true}) {
        SCOPED_TRACE(fmt::format("head_dim {} sparsity {} value {}", head_dim, sparsity, value));
        std::vector<float> expected;
        std::vector<float> magnitude;
        const ReconstructArgs args = problem.Args(value, expected);
        definition::Reconstruct(args, problem.Args(value, magnitude).out);
        const std::vector<float> actual = problem.Run(value, Ops());
        // sparsity multiply-adds, each rounded once by at most half a unit of the sum so far.
        EXPECT_TRUE(IsClose(TensorView(actual.data(), {static_cast<int64_t>(actual.size())}),
                            TensorView(expected.data(), {static_cast<int64_t>(actual.size())}),
                            TensorView(magnitude.data(), {static_cast<int64_t>(actual.size())}),
                            sparsity / 2.0 + 1));
      }
    }
  }
}

TEST_P(ReconstructTest, MatchesDefinitionOfEveryCode) {
  uint32_t seed = 50;
  for (const int head_dim : {8, 16, 64, 128, 256}) {
    for (const CodeForm& form : {CodeForm{4, 0}, {4, 1}, {8, 1}, {4, 2}, {8, 3}, {4, 3}}) {
      for (const int sparsity : {0, 1, 4, 17}) {
        if (sparsity == 0 && form.residual_bits == 0) continue;
        PageLayout layout = Layout(2, head_dim, 4, sparsity, 3);
        layout.form_k = form;
        const Problem problem(layout, 3, 40, seed++);
        SCOPED_TRACE(fmt::format("head_dim {} sparsity {} bits {} residual {}", head_dim, sparsity,
                                 form.coefficient_bits, form.residual_bits));
        std::vector<float> expected;
        std::vector<float> magnitude;
        const ReconstructArgs args = problem.Args(false, expected);
        definition::Reconstruct(args, problem.Args(false, magnitude).out);
        const std::vector<float> actual = problem.Run(false, Ops());
        const auto n = static_cast<int64_t>(actual.size());
        // And log2(head_dim) additions of the rotation.
        EXPECT_TRUE(IsClose(TensorView(actual.data(), {n}), TensorView(expected.data(), {n}),
                            TensorView(magnitude.data(), {n}), sparsity / 2.0 + 10));
      }
    }
  }
}

TEST_P(ReconstructTest, PagesMayLieAtAnOffsetFromTheirPointers) {
  const Problem problem(Layout(2, 16, 4, 5, 3), 3, 40, 77);
  const CodedPages::InBlocks blocks(problem.pages, 128);
  for (const bool value : {false, true}) {
    const std::vector<float> expected = problem.Run(value, Ops());
    std::vector<float> actual;
    ReconstructArgs args = problem.Args(value, actual);
    args.pages = blocks.pages();
    args.page_offset = 128;
    Ops().Reconstruct(args);
    EXPECT_TRUE(SameBits(args.out, TensorView(expected.data(), {12, 2, 16})));
  }
}

TEST_P(ReconstructTest, OneAtomWithCoefficientOneIsThatAtom) {
  Problem problem(Layout(1, 16, 2, 1, 1), 1, 32, 2);
  const std::vector<uint8_t> page = {9, 0, 31, 0, FloatToE4m3(1), FloatToE4m3(-2), 0, 0,
                                     0, 0, 0,  0};
  std::copy(page.begin(), page.end(), problem.pages.page(0));
  const std::vector<float> out = problem.Run(false, Ops());
  std::vector<float> unit(16, 0.0f);
  double norms[2] = {};
  for (int i = 0; i < 16; ++i) {
    norms[0] += out[i] * out[i];
    norms[1] += out[16 + i] * out[16 + i];
  }
  EXPECT_NEAR(norms[0], 1, 1e-6);
  EXPECT_NEAR(norms[1], 4, 1e-5);
  for (const float value : problem.Run(true, Ops())) EXPECT_EQ(value, 0);
}

TEST_P(ReconstructTest, DecodesWhatOmpEncodeStores) {
  std::mt19937 random(3);
  const PageLayout layout = Layout(1, 32, 8, 6, 6);
  const auto dictionary = tests::RandomDictionary(128, 32, random);
  const std::vector<float> x = tests::RandomNormal(8 * 32, random);
  std::vector<uint8_t> page(layout.payload_bytes());
  std::vector<uint16_t> atoms(8 * 6);
  std::vector<float> rel_error(8);
  OmpEncodeArgs encode;
  encode.x = TensorView(x.data(), {8, 32});
  encode.dictionary = dictionary.get();
  encode.sparsity = 6;
  encode.atoms = MutableTensorView(atoms.data(), {8, 6});
  encode.coefs = MutableTensorView(page.data() + layout.atoms_bytes(6), {8, 6});
  encode.rel_error = MutableTensorView(rel_error.data(), {8});
  OmpEncode(encode, Stream::Cpu(1));
  std::memcpy(page.data(), atoms.data(), atoms.size() * sizeof(uint16_t));

  std::vector<float> out(8 * 32);
  const uint8_t* pages[] = {page.data()};
  ReconstructArgs args;
  args.pages = pages;
  args.n_pages = 1;
  args.layout = layout;
  args.dictionary = dictionary.get();
  args.out = MutableTensorView(out.data(), {8, 1, 32});
  Ops().Reconstruct(args);
  for (int t = 0; t < 8; ++t) {
    double error = 0;
    double norm = 0;
    for (int i = t * 32; i < (t + 1) * 32; ++i) {
      error += (x[i] - out[i]) * (x[i] - out[i]);
      norm += x[i] * x[i];
    }
    EXPECT_NEAR(std::sqrt(error / norm), rel_error[t], 1e-5) << t;
  }
}

TEST_P(ReconstructTest, PagesDoNotSeeEachOther) {
  Problem problem(Layout(2, 16, 4, 3, 3), 3, 32, 4);
  const std::vector<float> clean = problem.Run(false, Ops());
  problem.pages.Poison(0);
  problem.pages.Poison(2);
  const std::vector<float> poisoned = problem.Run(false, Ops());
  const size_t n = clean.size() / 3;
  for (size_t i = 0; i < n; ++i) {
    EXPECT_TRUE(std::isnan(poisoned[i]));
    EXPECT_EQ(poisoned[n + i], clean[n + i]);
  }
}

TEST_P(ReconstructTest, SameBitsWithOtherThreadCounts) {
  const Problem problem(Layout(2, 64, 32, 8, 8), 9, 64, 5);
  const std::vector<float> once = problem.Run(true, Ops());
  for (const int threads : {1, 2, 5}) EXPECT_EQ(problem.Run(true, Ops(threads)), once) << threads;
}

TEST_P(ReconstructTest, NoPagesIsNothing) {
  const Problem problem(Layout(1, 16, 2, 1, 1), 0, 16, 6);
  EXPECT_TRUE(problem.Run(false, Ops()).empty());
}

TEST(ReconstructDeathTest, RejectsMalformedArguments) {
  const Problem problem(Layout(1, 16, 2, 1, 1), 1, 16, 7);
  std::vector<float> out;
  ReconstructArgs args = problem.Args(false, out);
  args.layout.sparsity_k = 0;
  EXPECT_DEATH(Reconstruct(args, Stream::Cpu(1)), "is_dense");
  args = problem.Args(false, out);
  args.layout.head_dim = 8;
  EXPECT_DEATH(Reconstruct(args, Stream::Cpu(1)), "head_dim \\(8\\)");
  args = problem.Args(false, out);
  args.n_pages = 2;
  EXPECT_DEATH(Reconstruct(args, Stream::Cpu(1)), "args.out.dim\\(0\\)");
}

}  // namespace
}  // namespace lexico::kernels

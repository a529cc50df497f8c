// Each property is stated once. Inputs come from a seed that every failure prints.
#include "kernels/api/demote_codes.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "kernels/api/omp_encode.h"
#include "kernels/api/quantize_codes.h"
#include "kernels/api/rows.h"
#include "kernels/cpu/demote_codes_definition.h"
#include "kernels/cpu/dictionary.h"
#include "tests/kernels/code_fixtures.h"
#include "tests/kernels/device_ops.h"

namespace lexico::kernels {
namespace {

using tests::CodedPages;
using tests::RandomAtoms;
using tests::RandomNormal;

constexpr float kUnwritten = -12345;

struct Demoted {
  int sparsity = 0;
  std::vector<uint16_t> atoms;
  std::vector<uint8_t> coefs;
  std::vector<float> rel_error;
  std::vector<float> coefficients;  // of a CPU

  int64_t n_vectors() const { return static_cast<int64_t>(rel_error.size()); }
  std::vector<uint16_t> AtomsOf(int64_t i) const {
    return {atoms.begin() + i * sparsity, atoms.begin() + (i + 1) * sparsity};
  }
};

void ExpectSameBits(const Demoted& a, const Demoted& b) {
  EXPECT_EQ(a.atoms, b.atoms);
  EXPECT_EQ(a.coefs, b.coefs);
  ASSERT_EQ(a.n_vectors(), b.n_vectors());
  EXPECT_EQ(0, std::memcmp(a.rel_error.data(), b.rel_error.data(), a.n_vectors() * sizeof(float)));
}

PageLayout Layout(int n_kv_heads, int head_dim, VectorCode code, int page_tokens = 8) {
  return {.n_kv_heads = n_kv_heads,
          .head_dim = head_dim,
          .page_tokens = page_tokens,
          .sparsity_k = code.sparsity,
          .sparsity_v = code.sparsity,
          .form_k = code.form,
          .form_v = code.form};
}
VectorCode Paper(int sparsity) { return {.sparsity = sparsity, .form = {}}; }

DemoteCodesArgs ArgsFor(const PageLayout& layout, const uint8_t* const* pages, int64_t n_pages,
                        const PreparedDictionary& dictionary, int sparsity, bool on_cpu,
                        Demoted& out) {
  const int64_t n = n_pages * layout.page_tokens * layout.n_kv_heads;
  out.sparsity = sparsity;
  // Garbage, so that a place that is not written shows.
  out.atoms.assign(n * sparsity, 0xffff);
  out.coefs.assign(n * sparsity, 0x7f);
  out.coefficients.assign(n * sparsity, kUnwritten);
  out.rel_error.assign(n, -1);
  DemoteCodesArgs args;
  args.pages = pages;
  args.n_pages = n_pages;
  args.layout = layout;
  args.dictionary = &dictionary;
  args.sparsity = sparsity;
  args.atoms = MutableTensorView(out.atoms.data(), {n, sparsity});
  args.coefs = MutableTensorView(out.coefs.data(), {n, sparsity});
  args.rel_error = MutableTensorView(out.rel_error.data(), {n});
  if (on_cpu) args.coefficients = MutableTensorView(out.coefficients.data(), {n, sparsity});
  return args;
}

// Pages of one half, keys, coded from vectors as page coders do it.
struct VectorPages {
  VectorPages(const PageLayout& page_layout, const std::vector<float>& x,
              const PreparedDictionary& dictionary)
      : layout(page_layout) {
    const auto n = static_cast<int64_t>(x.size()) / layout.head_dim;
    const int64_t n_pages = n / (layout.page_tokens * layout.n_kv_heads);
    bytes.assign(n_pages, std::vector<uint8_t>(layout.payload_bytes()));
    for (auto& page : bytes) pointers.push_back(page.data());
    const VectorCode code = layout.code(false);
    Direct(x, dictionary, code.sparsity);
    std::vector<float> page_errors(n_pages);
    int64_t n_non_finite = 0;
    if (code.is_paper()) {
      PackCodes({.layout = layout,
                 .atoms = {direct.atoms.data(), {n, code.sparsity}},
                 .coefs = {direct.coefs.data(), {n, code.sparsity}},
                 .rel_error = {direct.rel_error.data(), {n}},
                 .pages = pointers.data(),
                 .page_error = page_errors.data()},
                Stream::Cpu(1));
    } else {
      QuantizeCodes({.layout = layout,
                     .dictionary = &dictionary,
                     .x = {x.data(), {n, layout.head_dim}},
                     .atoms = {direct.atoms.data(), {n, code.sparsity}},
                     .coefficients = {direct.coefficients.data(), {n, code.sparsity}},
                     .pages = pointers.data(),
                     .page_error = page_errors.data(),
                     .n_non_finite = &n_non_finite},
                    Stream::Cpu(1));
    }
  }
  // OmpEncode of the vectors.
  const Demoted& Direct(const std::vector<float>& x, const PreparedDictionary& dictionary,
                        int sparsity) {
    const auto n = static_cast<int64_t>(x.size()) / layout.head_dim;
    direct.sparsity = sparsity;
    direct.atoms.resize(n * sparsity);
    direct.coefs.resize(n * sparsity);
    direct.coefficients.resize(n * sparsity);
    direct.rel_error.resize(n);
    OmpEncode({.x = {x.data(), {n, layout.head_dim}},
               .dictionary = &dictionary,
               .sparsity = sparsity,
               .atoms = {direct.atoms.data(), {n, sparsity}},
               .coefs = {direct.coefs.data(), {n, sparsity}},
               .rel_error = {direct.rel_error.data(), {n}},
               .coefficients = {direct.coefficients.data(), {n, sparsity}}},
              Stream::Cpu(1));
    return direct;
  }

  int64_t n_pages() const { return static_cast<int64_t>(pointers.size()); }
  const uint8_t* const* pages() const { return pointers.data(); }

  PageLayout layout;
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<uint8_t*> pointers;
  Demoted direct;
};

class DemoteCodesTest : public tests::DeviceTest {
 protected:
  Demoted Demote(const PageLayout& layout, const uint8_t* const* pages, int64_t n_pages,
                 const PreparedDictionary& dictionary, int sparsity, int threads = 1,
                 bool value = false) const {
    Demoted out;
    DemoteCodesArgs args = ArgsFor(layout, pages, n_pages, dictionary, sparsity, !on_gpu(), out);
    args.value = value;
    Ops(threads).DemoteCodes(args);
    return out;
  }
  static Demoted Define(const PageLayout& layout, const uint8_t* const* pages, int64_t n_pages,
                        const PreparedDictionary& dictionary, int sparsity, bool value = false) {
    Demoted out;
    DemoteCodesArgs args = ArgsFor(layout, pages, n_pages, dictionary, sparsity, true, out);
    args.value = value;
    definition::DemoteCodes(args);
    return out;
  }
  // Equal but where a rounding decides: of two atoms of the code that are as good as equal, or of
  // one that random codes have twice with opposite coefficients.
  static void ExpectAsDefined(const Demoted& got, const Demoted& defined, int64_t n_different_max) {
    ASSERT_EQ(got.n_vectors(), defined.n_vectors());
    int64_t n_different = 0;
    for (int64_t i = 0; i < got.n_vectors(); ++i) {
      if (got.AtomsOf(i) != defined.AtomsOf(i)) {
        ++n_different;
        continue;
      }
      EXPECT_NEAR(got.rel_error[i], defined.rel_error[i], 0.07) << "vector " << i;
      for (int j = 0; j < got.sparsity; ++j) {
        const float a = E4m3ToFloat(got.coefs[i * got.sparsity + j]);
        const float b = E4m3ToFloat(defined.coefs[i * got.sparsity + j]);
        // A neighbour, where the coefficient lies between two.
        EXPECT_NEAR(a, b, std::abs(b) / 8 + 2e-3f) << "vector " << i << " place " << j;
        const float exact = got.coefficients[i * got.sparsity + j];
        if (exact == kUnwritten) continue;  // of a GPU
        EXPECT_NEAR(exact, defined.coefficients[i * got.sparsity + j], 1e-4 * (1 + std::abs(b)));
      }
    }
    EXPECT_LE(n_different, n_different_max);
  }
};
LEXICO_TEST_ON_ALL_DEVICES(DemoteCodesTest);

std::vector<VectorCode> Forms(int sparsity, bool paper_only) {
  if (paper_only) return {Paper(sparsity)};
  return {Paper(sparsity),
          {sparsity, {.coefficient_bits = 4}},
          {sparsity, {.coefficient_bits = 4, .unbiased = true}},
          {sparsity, {.coefficient_bits = 4, .residual_bits = 2}},
          {sparsity, {.coefficient_bits = 8, .residual_bits = 1}}};
}

TEST_P(DemoteCodesTest, AllSmallShapesAreAsDefined) {
  uint32_t seed = 100;
  for (const int head_dim : {8, 16, 64, 128, 256}) {
    for (const int sparsity : {1, 2, 5, 8}) {
      for (const VectorCode& code : Forms(sparsity, on_gpu())) {
        for (const int n_kv_heads : {1, 3}) {
          SCOPED_TRACE(fmt::format("seed {} head_dim {} sparsity {} bits {} residual {} heads {}",
                                   seed, head_dim, sparsity, code.form.coefficient_bits,
                                   code.form.residual_bits, n_kv_heads));
          std::mt19937 random(seed++);
          const PageLayout layout = Layout(n_kv_heads, head_dim, code, 6);
          const auto dictionary = tests::RandomDictionary(32, head_dim, random);
          CodedPages pages(layout, 2, 32, random);
          for (int less = 1; less <= sparsity; ++less) {
            for (const bool value : {false, true}) {
              ExpectAsDefined(Demote(layout, pages.pages(), 2, *dictionary, less, 1, value),
                              Define(layout, pages.pages(), 2, *dictionary, less, value), 2);
            }
          }
        }
      }
    }
  }
}

TEST_P(DemoteCodesTest, ManyAtomsAreAsDefined) {
  std::mt19937 random(7);
  const PageLayout layout = Layout(2, 128, Paper(64), 8);
  const auto dictionary = tests::RandomDictionary(512, 128, random);
  CodedPages pages(layout, 2, 512, random);
  for (const int less : {1, 31, 33, 63, 64}) {
    ExpectAsDefined(Demote(layout, pages.pages(), 2, *dictionary, less),
                    Define(layout, pages.pages(), 2, *dictionary, less), 2);
  }
}

// The fact that the op rests on (its header).
TEST_P(DemoteCodesTest, GivesWhatThePursuitOfTheVectorsGives) {
  std::mt19937 random(11);
  const int head_dim = 64;
  const auto dictionary = tests::RandomDictionary(256, head_dim, random);
  const std::vector<float> x = RandomNormal(512 * head_dim, random);
  VectorPages coded(Layout(2, head_dim, Paper(16)), x, *dictionary);
  const Demoted demoted = Demote(coded.layout, coded.pages(), coded.n_pages(), *dictionary, 8);
  const Demoted& direct = coded.Direct(x, *dictionary, 8);
  int64_t n_same = 0;
  for (int64_t i = 0; i < demoted.n_vectors(); ++i) {
    std::vector<uint16_t> a = demoted.AtomsOf(i);
    std::vector<uint16_t> b = direct.AtomsOf(i);
    std::ranges::sort(a);
    std::ranges::sort(b);
    n_same += a == b ? 1 : 0;
  }
  // Others have two atoms closer to each other than coefficients of 3 bits of mantissa say.
  EXPECT_GT(n_same, demoted.n_vectors() * 6 / 10);
  double demoted_error = 0;
  double direct_error = 0;
  for (int64_t i = 0; i < demoted.n_vectors(); ++i) {
    std::vector<double> rest(x.begin() + i * head_dim, x.begin() + (i + 1) * head_dim);
    double squares = 0;
    double errors = 0;
    for (const double value : rest) squares += value * value;
    for (int j = 0; j < 8; ++j) {
      const float* row = cpu::AsCpu(*dictionary).row(demoted.atoms[i * 8 + j]);
      for (int c = 0; c < head_dim; ++c) rest[c] -= E4m3ToFloat(demoted.coefs[i * 8 + j]) * row[c];
    }
    for (const double value : rest) errors += value * value;
    demoted_error += std::sqrt(errors / squares);
    direct_error += direct.rel_error[i];
  }
  EXPECT_LT(demoted_error, direct_error * 1.01);
}

TEST_P(DemoteCodesTest, AsManyAtomsGiveTheSameCode) {
  std::mt19937 random(12);
  const int head_dim = 64;
  const auto dictionary = tests::RandomDictionary(256, head_dim, random);
  const std::vector<float> x = RandomNormal(64 * head_dim, random);
  VectorPages coded(Layout(2, head_dim, Paper(8)), x, *dictionary);
  const Demoted demoted = Demote(coded.layout, coded.pages(), coded.n_pages(), *dictionary, 8);
  for (int64_t i = 0; i < demoted.n_vectors(); ++i) {
    std::vector<std::pair<int, int>> a;
    std::vector<std::pair<int, int>> b;
    for (int j = 0; j < 8; ++j) {
      a.emplace_back(demoted.atoms[i * 8 + j], demoted.coefs[i * 8 + j]);
      b.emplace_back(coded.direct.atoms[i * 8 + j], coded.direct.coefs[i * 8 + j]);
    }
    std::ranges::sort(a);
    std::ranges::sort(b);
    EXPECT_EQ(a, b) << "vector " << i;
    EXPECT_LT(demoted.rel_error[i], 1e-5f);
  }
}

// Pages [token] of one head from atoms and coefficients.
struct HandMade {
  HandMade(int head_dim, int sparsity) : layout(Layout(1, head_dim, Paper(sparsity), 2)) {
    page.assign(layout.payload_bytes(), 0);
  }
  void Set(int token, int place, uint16_t atom, float coefficient) {
    const int s = layout.sparsity_k;
    reinterpret_cast<uint16_t*>(page.data())[token * s + place] = atom;
    page[layout.atoms_bytes(s) + token * s + place] = FloatToE4m3(coefficient);
  }
  const uint8_t* const* pages() {
    pointer = page.data();
    return &pointer;
  }
  PageLayout layout;
  std::vector<uint8_t> page;
  const uint8_t* pointer = nullptr;
};

TEST_P(DemoteCodesTest, DegenerateCodes) {
  std::mt19937 random(13);
  const int head_dim = 16;
  std::vector<float> atoms = RandomAtoms(24, head_dim, random);
  // Atom 5 is atom 3 once more.
  std::copy_n(atoms.begin() + 3 * head_dim, head_dim, atoms.begin() + 5 * head_dim);
  const auto dictionary = tests::Prepare(atoms, head_dim);
  HandMade made(head_dim, 4);
  // Token 0: nothing. Token 1: an atom, the same in two other places, an unused place.
  made.Set(1, 0, 3, 1.0f);
  made.Set(1, 1, 5, 2.0f);
  made.Set(1, 2, 3, 0.5f);
  const Demoted demoted = Demote(made.layout, made.pages(), 1, *dictionary, 3);
  EXPECT_EQ(demoted.AtomsOf(0), (std::vector<uint16_t>{0, 0, 0}));
  EXPECT_EQ(demoted.rel_error[0], 0);
  EXPECT_EQ(demoted.AtomsOf(1), (std::vector<uint16_t>{3, 0, 0}));
  EXPECT_EQ(E4m3ToFloat(demoted.coefs[3]), 3.5f);
  EXPECT_EQ(E4m3ToFloat(demoted.coefs[4]), 0.0f);
  EXPECT_LT(demoted.rel_error[1], 1e-6f);
  ExpectAsDefined(demoted, Define(made.layout, made.pages(), 1, *dictionary, 3), 0);
}

TEST_P(DemoteCodesTest, CoefficientsSaturate) {
  std::mt19937 random(14);
  const int head_dim = 16;
  std::vector<float> atoms = RandomAtoms(24, head_dim, random);
  // Two atoms close to each other: one alone has to do the work of both.
  for (int i = 0; i < head_dim; ++i) atoms[head_dim + i] = atoms[i];
  atoms[head_dim] += 0.3f;
  float norm = 0;
  for (int i = 0; i < head_dim; ++i) norm += atoms[head_dim + i] * atoms[head_dim + i];
  for (int i = 0; i < head_dim; ++i) atoms[head_dim + i] /= std::sqrt(norm);
  const auto dictionary = tests::Prepare(atoms, head_dim);
  HandMade made(head_dim, 2);
  made.Set(0, 0, 0, 448.0f);
  made.Set(0, 1, 1, 448.0f);
  const Demoted demoted = Demote(made.layout, made.pages(), 1, *dictionary, 1);
  EXPECT_EQ(E4m3ToFloat(demoted.coefs[0]), 448.0f);
  EXPECT_NEAR(demoted.rel_error[0], 0.5f, 0.1f);
}

TEST_P(DemoteCodesTest, ACodeThatIsNotANumberGivesNone) {
  std::mt19937 random(15);
  const auto dictionary = tests::RandomDictionary(24, 16, random);
  HandMade made(16, 4);
  made.Set(0, 0, 3, std::numeric_limits<float>::quiet_NaN());
  made.Set(0, 1, 4, 1.0f);
  const Demoted demoted = Demote(made.layout, made.pages(), 1, *dictionary, 2);
  EXPECT_EQ(demoted.AtomsOf(0), (std::vector<uint16_t>{0, 0}));
  EXPECT_EQ(demoted.coefs[0], 0);
  EXPECT_TRUE(std::isnan(demoted.rel_error[0]));
  EXPECT_EQ(demoted.rel_error[1], 0);
}

// A GPU orders codes by banks.
TEST_P(DemoteCodesTest, TheOrderOfCodesDecidesNothing) {
  std::mt19937 random(16);
  const int head_dim = 64;
  const auto dictionary = tests::RandomDictionary(256, head_dim, random);
  const std::vector<float> x = RandomNormal(64 * head_dim, random);
  VectorPages coded(Layout(1, head_dim, Paper(12)), x, *dictionary);
  const Demoted before = Demote(coded.layout, coded.pages(), coded.n_pages(), *dictionary, 5);
  for (auto& page : coded.bytes) {
    for (int token = 0; token < coded.layout.page_tokens; ++token) {
      auto* atoms = reinterpret_cast<uint16_t*>(page.data()) + token * 12;
      uint8_t* coefs = page.data() + coded.layout.atoms_bytes(12) + token * 12;
      std::reverse(atoms, atoms + 12);
      std::reverse(coefs, coefs + 12);
    }
  }
  const Demoted after = Demote(coded.layout, coded.pages(), coded.n_pages(), *dictionary, 5);
  EXPECT_EQ(before.atoms, after.atoms);
  EXPECT_EQ(before.coefs, after.coefs);
}

TEST_P(DemoteCodesTest, SameBitsInBlocksWithOtherPagesAndThreads) {
  std::mt19937 random(17);
  const PageLayout layout = Layout(3, 32, Paper(8), 8);
  const auto dictionary = tests::RandomDictionary(64, 32, random);
  CodedPages pages(layout, 5, 64, random);
  const Demoted all = Demote(layout, pages.pages(), 5, *dictionary, 3);
  ExpectSameBits(all, Demote(layout, pages.pages(), 5, *dictionary, 3, 3));
  const CodedPages::InBlocks blocks(pages, 128);
  Demoted in_blocks;
  DemoteCodesArgs args = ArgsFor(layout, blocks.pages(), 5, *dictionary, 3, !on_gpu(), in_blocks);
  args.page_offset = 128;
  Ops().DemoteCodes(args);
  ExpectSameBits(all, in_blocks);
  const Demoted one = Demote(layout, pages.pages() + 2, 1, *dictionary, 3);
  EXPECT_TRUE(std::equal(one.atoms.begin(), one.atoms.end(),
                         all.atoms.begin() + 2 * static_cast<int64_t>(one.atoms.size())));
}

TEST(DemoteCodesDeathTest, MalformedArguments) {
  std::mt19937 random(18);
  const PageLayout layout = Layout(1, 16, Paper(4));
  const auto dictionary = tests::RandomDictionary(24, 16, random);
  CodedPages pages(layout, 1, 24, random);
  Demoted out;
  const DemoteCodesArgs good = ArgsFor(layout, pages.pages(), 1, *dictionary, 2, true, out);
  const auto death = [&](auto change, const char* message) {
    DemoteCodesArgs args = good;
    change(args);
    EXPECT_DEATH(DemoteCodes(args, Stream::Cpu(1)), message);
  };
  death([](DemoteCodesArgs& a) { a.sparsity = 0; }, "args.sparsity");
  death([](DemoteCodesArgs& a) { a.sparsity = 5; }, "args.sparsity");
  death([](DemoteCodesArgs& a) { a.n_pages = 2; }, "args.atoms.dim");
  death([](DemoteCodesArgs& a) { a.dictionary = nullptr; }, "dictionary");
  death([](DemoteCodesArgs& a) { a.pages = nullptr; }, "args.pages");
  death([](DemoteCodesArgs& a) { a.coefs.dtype = DType::kU16; }, "args.coefs.dtype");
}

}  // namespace
}  // namespace lexico::kernels

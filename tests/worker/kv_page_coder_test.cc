// EncodePages and DecodePages on every device: what is in the pages, not how it came there.
#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/convert.h"
#include "tests/kernels/code_fixtures.h"
#include "tests/kernels/device_array.h"
#include "tests/kernels/device_ops.h"
#include "worker/kv/page_coder.h"

namespace lexico::worker {
namespace {

using tests::DeviceArray;

constexpr int kKvHeads = 2;
constexpr int kHeadDim = 16;
constexpr int kAtoms = 64;
constexpr int kPages = 3;
constexpr int kLayer = 1;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class PageCoderTest : public tests::DeviceTest {
 protected:
  static KvLayout Layout(const char* profile) {
    const KvShape shape{.n_layers = 3,
                        .n_kv_heads = kKvHeads,
                        .head_dim = kHeadDim,
                        .cache_type = kernels::DType::kBF16};
    return MakeKvLayout(shape, *base::ParseProfile(profile), kAtoms);
  }

  std::shared_ptr<const kernels::PreparedDictionary> Dictionary() {
    const std::vector<float> atoms = tests::RandomAtoms(kAtoms, kHeadDim, random_);
    return *kernels::PrepareDictionary({atoms.data(), {kAtoms, kHeadDim}}, stream());
  }

  // Rows of kPages pages, values of the cache type.
  std::vector<float> Rows(const KvLayout& layout) {
    std::vector<float> rows =
        tests::RandomNormal(kPages * layout.page.page_tokens * layout.shape.row_dim(), random_);
    for (float& x : rows) x = kernels::cpu::Bf16ToFloat(kernels::cpu::FloatToBf16(x));
    return rows;
  }

  absl::Status Encode(const KvLayout& layout, const std::vector<float>& k,
                      const std::vector<float>& v) {
    pages_ = std::make_unique<DeviceArray<uint8_t>>(
        std::vector<uint8_t>(kPages * layout.page_block_bytes(), 0xee), stream());
    blocks_.clear();
    for (int i = 0; i < kPages; ++i)
      blocks_.push_back(pages_->data() + i * layout.page_block_bytes());
    const DeviceArray<float> k_there(k, stream());
    const DeviceArray<float> v_there(v, stream());
    errors_.assign(kPages, {kNan, kNan});
    return EncodePages(layout, dictionaries_, k_there.data(), v_there.data(), kLayer, blocks_,
                       errors_, stream(), scratch_);
  }

  std::vector<float> Decode(const KvLayout& layout, bool value, size_t n) {
    const DeviceArray<float> rows(std::vector<float>(n, kNan), stream());
    const std::vector<const uint8_t*> pages(blocks_.begin(), blocks_.end());
    DecodePages(layout, dictionaries_, value, kLayer, pages, rows.data(), stream(), scratch_);
    return rows.Values();
  }

  void ExpectNonFiniteCounted(const KvLayout& layout) {
    SCOPED_TRACE(layout.profile.name);
    ASSERT_TRUE(scratch_.Reserve(layout, kPages, stream()).ok());
    const std::vector<float> k = Rows(layout);
    std::vector<float> v = Rows(layout);
    v[0] = kNan;
    v[5 * kHeadDim + 1] = std::numeric_limits<float>::infinity();
    const absl::Status coded = Encode(layout, k, v);
    EXPECT_EQ(coded.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(coded.message()),
                testing::HasSubstr("2 of 192 value vectors are not finite"));
  }

  std::mt19937 random_{3};
  LayerDictionaries dictionaries_;
  CoderScratch scratch_;
  std::unique_ptr<DeviceArray<uint8_t>> pages_;
  std::vector<uint8_t*> blocks_;
  std::vector<PageError> errors_;
};
LEXICO_TEST_ON_ALL_DEVICES(PageCoderTest);

// Mean over a page's vectors of ||x - x^|| / ||x||.
double MeanError(const std::vector<float>& x, const std::vector<float>& decoded, int page) {
  const size_t n_vectors = x.size() / kHeadDim / kPages;
  double sum = 0;
  for (size_t vector = page * n_vectors; vector < (page + 1) * n_vectors; ++vector) {
    double error = 0;
    double norm = 0;
    for (size_t i = vector * kHeadDim; i < (vector + 1) * kHeadDim; ++i) {
      error += (x[i] - decoded[i]) * (x[i] - decoded[i]);
      norm += x[i] * x[i];
    }
    sum += std::sqrt(error / norm);
  }
  return sum / static_cast<double>(n_vectors);
}

TEST_P(PageCoderTest, DecodedPagesAreAsFarFromTheRowsAsTheirErrorsSay) {
  const KvLayout layout = Layout("paper-s8");
  dictionaries_ = {Dictionary(), Dictionary()};
  ASSERT_TRUE(scratch_.Reserve(layout, kPages, stream()).ok());
  const std::vector<float> k = Rows(layout);
  const std::vector<float> v = Rows(layout);
  const absl::Status coded = Encode(layout, k, v);
  ASSERT_TRUE(coded.ok()) << coded;
  const std::vector<float> k_decoded = Decode(layout, false, k.size());
  const std::vector<float> v_decoded = Decode(layout, true, v.size());
  for (int page = 0; page < kPages; ++page) {
    EXPECT_NEAR(errors_[page].k, MeanError(k, k_decoded, page), 1e-5) << page;
    EXPECT_NEAR(errors_[page].v, MeanError(v, v_decoded, page), 1e-5) << page;
    EXPECT_GT(errors_[page].k, 0.05f);
    EXPECT_LT(errors_[page].k, 0.6f);
  }
}

TEST_P(PageCoderTest, DemotedPagesAreTheSameWhereverTheyAreWritten) {
  const KvLayout from = Layout("paper-s8");
  const KvLayout to = Layout("paper-s3");
  dictionaries_ = {Dictionary(), Dictionary()};
  ASSERT_TRUE(scratch_.Reserve(from, 2 * kPages, stream()).ok());
  const std::vector<float> k = Rows(from);
  const std::vector<float> v = Rows(from);
  ASSERT_TRUE(Encode(from, k, v).ok());
  const std::vector<PageError> before = errors_;
  const std::vector<uint8_t*> sources = blocks_;
  const std::vector<const uint8_t*> read(sources.begin(), sources.end());
  const DeviceArray<uint8_t> elsewhere(std::vector<uint8_t>(kPages * from.page_block_bytes(), 0xee),
                                       stream());
  blocks_.clear();
  for (int i = 0; i < kPages; ++i) {
    blocks_.push_back(elsewhere.data() + i * from.page_block_bytes());
  }
  DemotePages(from, to, dictionaries_, kLayer, read, blocks_, errors_, stream(), scratch_);
  const std::vector<float> k_there = Decode(to, false, k.size());
  const std::vector<float> v_there = Decode(to, true, v.size());
  const std::vector<PageError> rest = errors_;
  blocks_ = sources;
  DemotePages(from, to, dictionaries_, kLayer, read, blocks_, errors_, stream(), scratch_);
  EXPECT_EQ(Decode(to, false, k.size()), k_there);
  EXPECT_EQ(Decode(to, true, v.size()), v_there);
  for (int page = 0; page < kPages; ++page) {
    EXPECT_EQ(errors_[page].k, rest[page].k);
    // What was left out before and what is left out now are orthogonal.
    const double expected =
        std::hypot(before[page].v, rest[page].v * std::sqrt(1 - before[page].v * before[page].v));
    EXPECT_NEAR(MeanError(v, v_there, page), expected, 0.02) << page;
  }
}

TEST_P(PageCoderTest, MembersOfTheFamilyAreCodedToTheirBytes) {
  for (const char* profile : {"kv4", "kv4u", "kv0r1", "k2r2u-v4r1", "k0r3u-v8f8", "kv4f8r3"}) {
    SCOPED_TRACE(profile);
    const KvLayout layout = Layout(profile);
    dictionaries_ = {Dictionary(), Dictionary()};
    if (layout.page.sparsity_k == 0) dictionaries_.k = nullptr;
    if (layout.page.sparsity_v == 0) dictionaries_.v = nullptr;
    ASSERT_TRUE(scratch_.Reserve(layout, kPages, stream()).ok());
    const std::vector<float> k = Rows(layout);
    const std::vector<float> v = Rows(layout);
    const absl::Status coded = Encode(layout, k, v);
    ASSERT_TRUE(coded.ok()) << coded;
    const std::vector<float> k_decoded = Decode(layout, false, k.size());
    const std::vector<float> v_decoded = Decode(layout, true, v.size());
    for (int page = 0; page < kPages; ++page) {
      EXPECT_NEAR(errors_[page].k, MeanError(k, k_decoded, page), 1e-5) << page;
      EXPECT_NEAR(errors_[page].v, MeanError(v, v_decoded, page), 1e-5) << page;
      // Neither the page before nor the one behind is touched.
      const std::vector<uint8_t> block = pages_->Values();
      const size_t at = page * layout.page_block_bytes() + layout.page_offset(kLayer);
      EXPECT_EQ(block[at - 1], 0xee);
      EXPECT_EQ(block[at + layout.page_bytes()], 0xee);
    }
  }
  const KvLayout layout = Layout("k0r3u-v8f8");
  EXPECT_EQ(layout.page_bytes(), 32 * kKvHeads * (kHeadDim * 3 / 8 + 2 + 3 * 8));
}

TEST_P(PageCoderTest, DensePagesGiveTheRowsBack) {
  const KvLayout layout = Layout("dense");
  ASSERT_TRUE(scratch_.Reserve(layout, kPages, stream()).ok());
  const std::vector<float> k = Rows(layout);
  const std::vector<float> v = Rows(layout);
  ASSERT_TRUE(Encode(layout, k, v).ok());
  EXPECT_EQ(Decode(layout, false, k.size()), k);
  EXPECT_EQ(Decode(layout, true, v.size()), v);
  for (const PageError& error : errors_) {
    EXPECT_EQ(error.k, 0);
    EXPECT_EQ(error.v, 0);
  }
}

TEST_P(PageCoderTest, VectorsThatAreNotFiniteAreCounted) {
  dictionaries_ = {Dictionary(), Dictionary()};
  for (const char* profile : {"paper-s8", "kv4r1", "kv0r2u"}) {
    ExpectNonFiniteCounted(Layout(profile));
  }
}

}  // namespace
}  // namespace lexico::worker

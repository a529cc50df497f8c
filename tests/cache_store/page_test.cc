// Pages as bytes. A reader may answer two things about damaged bytes: the original page, or
// DataLoss. Never a different page, never a crash. Runs under AddressSanitizer, so reading past the
// end is also a failure.
#include "cache_store/format/page.h"

#include <gtest/gtest.h>

#include <cstring>

#include "proto/base/bytes.h"
#include "tests/cache_store/page_factory.h"

namespace lexico::store {
namespace {

using absl::StatusCode;

// A copy of its own exact size, so that one byte too far is outside the allocation.
std::vector<uint8_t> Exact(const std::string& bytes) { return {bytes.begin(), bytes.end()}; }

StatusCode Decode(const std::string& bytes) {
  const auto exact = Exact(bytes);
  return DecodePage(exact).status().code();
}

std::string SamplePage() { return MakePage(KeyOf(1)).bytes(); }

// Changes header bytes and makes the header's checksum right again.
std::string WithHeader(std::string page, size_t offset, const std::string& bytes) {
  page.replace(offset, bytes.size(), bytes);
  const auto span = base::AsBytes(page);
  const uint32_t crc =
      base::Crc32c(span.subspan(16, kPageHeaderBytes - 16), base::Crc32c(span.first(12)));
  std::memcpy(page.data() + 12, &crc, 4);
  return page;
}

// Changes payload bytes and makes both checksums right again.
std::string WithPayload(std::string page, size_t offset, const std::string& bytes) {
  page.replace(kPageHeaderBytes + offset, bytes.size(), bytes);
  const uint32_t crc = base::Crc32c(base::AsBytes(page).subspan(kPageHeaderBytes));
  return WithHeader(page, 16, std::string(reinterpret_cast<const char*>(&crc), 4));
}

TEST(PageTest, EveryKindComesBackAsItWasWritten) {
  PageShape dense{.kind = PageKind::kDense,
                  .dense_type = DenseType::kBF16,
                  .n_kv_heads = 3,
                  .head_dim = 8,
                  .page_tokens = 5,
                  .n_tokens = 5};
  PageShape window = dense;
  window.kind = PageKind::kWindow;
  window.dense_type = DenseType::kF32;
  window.n_tokens = 7;
  for (const PageShape& shape : {CodeShape(), dense, window}) {
    const TestPage page = MakePage(KeyOf(1), shape);
    const auto bytes = Exact(page.bytes());
    const auto view = DecodePage(bytes);
    ASSERT_TRUE(view.ok()) << view.status();
    EXPECT_EQ(view->header.shape, shape);
    EXPECT_EQ(view->header.key, KeyOf(1));
    EXPECT_EQ(view->header.layer, 1u);
    EXPECT_EQ(view->header.first_token, 8u);
    EXPECT_EQ(view->header.model, FingerprintOf("model"));
    EXPECT_EQ(view->header.dictionary, FingerprintOf("dictionary"));
    EXPECT_EQ(view->header.relative_error_k, 0.25f);
    EXPECT_EQ(view->header.relative_error_v, 0.5f);
    EXPECT_TRUE(std::equal(view->payload.begin(), view->payload.end(), page.payload.begin(),
                           page.payload.end()));
  }
}

TEST(PageTest, PayloadBytesFollowFromTheShapeOfTheSpecification) {
  EXPECT_EQ(CodeShape().payload_bytes(), 3u * 2 * 4 * (3 + 2));
  PageShape window{.kind = PageKind::kWindow,
                   .dense_type = DenseType::kBF16,
                   .n_kv_heads = 2,
                   .head_dim = 128,
                   .page_tokens = 32,
                   .n_tokens = 100};
  EXPECT_EQ(window.payload_bytes(), 2u * 100 * 2 * 128 * 2);
}

TEST(PageTest, HeaderLiesAsTheSpecificationSays) {
  const std::string page = SamplePage();
  EXPECT_EQ(page.substr(0, 4), "LXPG");
  EXPECT_EQ(page[4], 1);
  EXPECT_EQ(static_cast<uint8_t>(page[6]), 128);
  EXPECT_EQ(page[8], 120);
  EXPECT_EQ(page[30], 3);
  EXPECT_EQ(page[32], 64);
  EXPECT_EQ(std::memcmp(page.data() + 80, KeyOf(1).bytes.data(), 16), 0);
}

TEST(PageCorruptionTest, EveryBitFlipIsDetected) {
  const std::string good = SamplePage();
  for (size_t offset = 0; offset < good.size(); ++offset) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[offset] = static_cast<char>(bad[offset] ^ (1 << bit));
      EXPECT_EQ(Decode(bad), StatusCode::kDataLoss) << "offset " << offset << " bit " << bit;
    }
  }
}

TEST(PageCorruptionTest, EveryTruncationIsDetected) {
  const std::string good = SamplePage();
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_EQ(Decode(good.substr(0, size)), StatusCode::kDataLoss) << "size " << size;
  }
}

TEST(PageCorruptionTest, TrailingBytesAreRejected) {
  EXPECT_EQ(Decode(SamplePage() + '\0'), StatusCode::kDataLoss);
}

TEST(PageCorruptionTest, AtomIndexBeyondDictionaryIsRejectedEvenWithValidChecksum) {
  // The last atom of K head 1 (12 codes a head) and of V head 0 (8 codes).
  for (const size_t offset : {size_t{36 + 2 * 11}, size_t{72 + 2 * 7}}) {
    EXPECT_EQ(Decode(WithPayload(SamplePage(), offset, std::string("\x3f\x00", 2))),
              StatusCode::kOk);
    const auto bad = Exact(WithPayload(SamplePage(), offset, std::string("\x40\x00", 2)));
    const auto status = DecodePage(bad).status();
    EXPECT_EQ(status.code(), StatusCode::kDataLoss);
    EXPECT_NE(status.message().find("atom index 64"), std::string::npos) << status;
  }
}

TEST(PageCorruptionTest, NanCoefficientIsRejectedEvenWithValidChecksum) {
  for (const char nan : {'\x7f', '\xff'}) {
    EXPECT_EQ(Decode(WithPayload(SamplePage(), 24 + 5, std::string(1, nan))),
              StatusCode::kDataLoss);
  }
  EXPECT_EQ(Decode(WithPayload(SamplePage(), 24 + 5, "\xfe")), StatusCode::kOk);
}

TEST(PageCorruptionTest, NewerVersionIsFailedPreconditionNotDataLoss) {
  EXPECT_EQ(Decode(WithHeader(SamplePage(), 4, std::string("\x03\x00", 2))),
            StatusCode::kFailedPrecondition);
}

TEST(PageCorruptionTest, AVersionAndFormsThatDoNotAgreeAreDataLoss) {
  // The paper's code is version 1, others are version 2.
  EXPECT_EQ(Decode(WithHeader(SamplePage(), 4, std::string("\x02\x00", 2))), StatusCode::kDataLoss);
  EXPECT_EQ(Decode(WithHeader(SamplePage(), 104, std::string("\x08", 1))), StatusCode::kDataLoss);
  const std::string family = MakePage(KeyOf(1), FamilyShape()).bytes();
  EXPECT_EQ(Decode(family), StatusCode::kOk);
  EXPECT_EQ(family[4], 2);
  EXPECT_EQ(Decode(WithHeader(family, 4, std::string("\x01\x00", 2))), StatusCode::kDataLoss);
  for (const char* forms : {"\x10", "\xff"}) {
    EXPECT_EQ(Decode(WithHeader(family, 104, std::string(forms, 1))), StatusCode::kDataLoss);
  }
}

TEST(PageCorruptionTest, ScalesAndPackedAtomsAreVerifiedEvenWithValidChecksum) {
  const PageShape shape = FamilyShape();
  const std::string family = MakePage(KeyOf(1), shape).bytes();
  const base::VectorCode k = shape.code(false);
  const auto expect_refused = [&](size_t offset, const std::string& bytes, const char* why) {
    const auto page = Exact(WithPayload(family, offset, bytes));
    const auto status = DecodePage(page).status();
    EXPECT_EQ(status.code(), StatusCode::kDataLoss);
    EXPECT_NE(status.message().find(why), std::string::npos) << status;
  };
  expect_refused(2, std::string("\x00\x04", 2), "atom index 64");
  expect_refused(k.scales_at(4) + 2, std::string("\x00\x7c", 2),
                 "a scale in the block at offset 0 is not finite");
  expect_refused(k.residual_scales_at(4) + 6, std::string("\x01\xfe", 2),
                 "a residual scale in the block at offset 0 is not finite");
  // Any bits of a residual are levels.
  EXPECT_EQ(Decode(WithPayload(family, k.residual_at(4), std::string("\xff\x00", 2))),
            StatusCode::kOk);
}

TEST(PageTest, AMemberOfTheFamilyTakesTheBytesOfItsCodesAndIsRefusedAsAnother) {
  const TestPage page = MakePage(KeyOf(1), FamilyShape());
  // 2 heads of 4 tokens: 3 atoms, 2 scales and 2 bits of 16 numbers; 3 bits and a scale.
  EXPECT_EQ(page.payload.size(), 2u * 4 * ((6 + 2 + 2 + 4) + (6 + 2)));
  const auto bytes = Exact(page.bytes());
  const auto view = DecodePage(bytes);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->header.shape, FamilyShape());
  ExpectedPage expected{.key = KeyOf(1), .shape = FamilyShape()};
  EXPECT_TRUE(DecodePage(bytes, &expected).ok());
  expected.shape->form_k.unbiased = !expected.shape->form_k.unbiased;
  EXPECT_EQ(DecodePage(bytes, &expected).status().code(), StatusCode::kFailedPrecondition);
}

TEST(PageTest, FormsThatAreNoCodesAreRefused) {
  const TestPage page = MakePage(KeyOf(1), FamilyShape());
  const auto refused = [&](PageShape shape) {
    TestPage other = page;
    other.header.shape = shape;
    other.payload.assign(shape.payload_bytes(), 0);
    EXPECT_DEATH(EncodeHeader(other.header, other.payload), "form|n_atoms|sparsity");
  };
  PageShape shape = FamilyShape();
  shape.form_v.coefficient_bits = 4;  // without atoms
  refused(shape);
  shape = FamilyShape();
  shape.head_dim = 12;  // cannot be rotated
  refused(shape);
  shape = FamilyShape();
  shape.n_atoms = 8192;  // beyond 12 bits
  refused(shape);
  shape = FamilyShape();
  shape.form_v.residual_bits = 0;  // nothing at all
  refused(shape);
}

TEST(PageCorruptionTest, FieldsOutsideTheirRangeAreRejectedEvenWithValidChecksum) {
  const struct {
    size_t offset;
    std::string bytes;
    const char* field;
  } kCases[] = {
      {20, std::string("\x03", 1), "kind"},
      {21, std::string("\x01", 1), "dense_type"},
      {22, std::string("\0\0", 2), "n_kv_heads"},
      {24, std::string("\x01\x01", 2), "head_dim"},
      {26, std::string("\0\0", 2), "page_tokens"},
      {28, std::string("\x03\x00", 2), "n_tokens"},
      {30, std::string("\x41", 1), "sparsity_k"},
      {31, std::string("\0", 1), "sparsity_v"},
      {32, std::string("\x0f\0\0\0", 4), "n_atoms"},
      {36, std::string("\0\x01\0\0", 4), "layer"},
      {96, std::string("\0\0\xc0\x7f", 4), "relative_error_k"},
      {100, std::string("\0\0\x80\xbf", 4), "relative_error_v"},
      {8, std::string("\x79\0\0\0", 4), "payload_bytes"},
      {110, std::string("\x01", 1), "reserved"},
  };
  for (const auto& test : kCases) {
    const auto bytes = Exact(WithHeader(SamplePage(), test.offset, test.bytes));
    const auto status = DecodePage(bytes).status();
    EXPECT_EQ(status.code(), StatusCode::kDataLoss) << test.field;
    EXPECT_NE(status.message().find(test.field), std::string::npos) << status;
  }
}

TEST(PageTest, AnotherPageThanExpectedIsFailedPreconditionAndSaysWhatDiffers) {
  const TestPage page = MakePage(KeyOf(1));
  const auto bytes = Exact(page.bytes());
  const ExpectedPage right{.key = KeyOf(1),
                           .model = page.header.model,
                           .dictionary = page.header.dictionary,
                           .shape = CodeShape(),
                           .layer = 1,
                           .first_token = 8};
  EXPECT_TRUE(DecodePage(bytes, &right).ok());
  const auto expect_refused = [&](ExpectedPage expected, const char* field) {
    const auto status = DecodePage(bytes, &expected).status();
    EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition) << field;
    EXPECT_NE(status.message().find(field), std::string::npos) << status;
  };
  ExpectedPage wrong = right;
  wrong.key = KeyOf(2);
  expect_refused(wrong, "key");
  wrong = right;
  wrong.model = FingerprintOf("other");
  expect_refused(wrong, "model");
  wrong = right;
  wrong.dictionary = FingerprintOf("other");
  expect_refused(wrong, "dictionary");
  wrong = right;
  wrong.shape->sparsity_k = 4;
  expect_refused(wrong, "shape");
  wrong = right;
  wrong.layer = 0;
  expect_refused(wrong, "layer");
  wrong = right;
  wrong.first_token = 12;
  expect_refused(wrong, "first_token");
}

TEST(PageDeathTest, EncodingAPayloadOfAnotherLengthIsABug) {
  TestPage page = MakePage(KeyOf(1));
  page.payload.pop_back();
  EXPECT_DEATH(EncodeHeader(page.header, page.payload), "CHECK failed");
}

}  // namespace
}  // namespace lexico::store

// Manifests as bytes; the rules of page_test.cc hold here too.
#include "cache_store/format/manifest.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "proto/base/bytes.h"
#include "tests/cache_store/page_factory.h"

namespace lexico::store {
namespace {

using absl::StatusCode;

absl::StatusOr<Manifest> Decode(const std::string& bytes) {
  const std::vector<uint8_t> exact(bytes.begin(), bytes.end());
  return DecodeManifest(exact);
}

// Makes total_bytes and the checksum right.
std::string Signed(std::string bytes) {
  const uint64_t total = bytes.size();
  std::memcpy(bytes.data() + 8, &total, 8);
  const auto span = base::AsBytes(bytes);
  const uint32_t crc = base::Crc32c(span.subspan(20), base::Crc32c(span.first(16)));
  std::memcpy(bytes.data() + 16, &crc, 4);
  return bytes;
}

TEST(ManifestTest, ComesBackAsItWasWritten) {
  Manifest manifest = MakeManifest("session", 7, {1, 2, 3});
  manifest.parent_session_id = "parent";
  manifest.conversation = std::string("\0binary\xff", 8);
  manifest.window_keys = {KeyOf(100)};
  const auto bytes = EncodeManifest(manifest);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  const auto decoded = Decode(*bytes);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded, manifest);
}

TEST(ManifestTest, OfADemotedSessionComesBack) {
  Manifest manifest = MakeManifest("session", 7, {1, 2, 3});
  const auto before = EncodeManifest(manifest);
  ASSERT_TRUE(before.ok()) << before.status();
  EXPECT_EQ(before->at(4), 1);
  manifest.birth_profile = "paper-s32";
  manifest.min_profile = "paper-s4";
  manifest.demotions = {{"paper-s32", manifest.page_tokens, manifest.page_tokens + 1},
                        {"paper-s16", manifest.n_sealed_tokens, manifest.tokens.size()}};
  const auto bytes = EncodeManifest(manifest);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(bytes->at(4), 2);
  const auto decoded = Decode(*bytes);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded, manifest);
  for (size_t cut = before->size(); cut < bytes->size(); ++cut) {
    EXPECT_EQ(Decode(Signed(bytes->substr(0, cut))).status().code(), StatusCode::kDataLoss) << cut;
  }
  EXPECT_EQ(Decode(Signed(*bytes + '\0')).status().code(), StatusCode::kDataLoss);
}

TEST(ManifestTest, ThatMayBeDemotedComesBack) {
  Manifest manifest = MakeManifest("session", 7, {1, 2, 3});
  manifest.min_profile = "paper-s4";
  const auto bytes = EncodeManifest(manifest);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(*Decode(*bytes), manifest);
}

TEST(ManifestTest, OfAnEmptySessionComesBack) {
  Manifest manifest = MakeManifest("session", 1, {});
  manifest.tokens.clear();
  manifest.segments.clear();
  const auto bytes = EncodeManifest(manifest);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(*Decode(*bytes), manifest);
}

TEST(ManifestTest, RulesThatDoNotHoldAreInvalidArgumentAndNamed) {
  const auto expect_refused = [](const char* field, void (*change)(Manifest&)) {
    Manifest manifest = MakeManifest("session", 7, {1, 2, 3});
    change(manifest);
    const auto status = EncodeManifest(manifest).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << field;
    EXPECT_NE(status.message().find(field), std::string::npos) << status;
  };
  expect_refused("session_id", [](Manifest& m) { m.session_id.clear(); });
  expect_refused("birth_profile", [](Manifest& m) { m.birth_profile.assign(257, 'x'); });
  expect_refused("min_profile", [](Manifest& m) { m.min_profile.assign(257, 'x'); });
  expect_refused("n_demotions", [](Manifest& m) { m.demotions.assign(257, {"p", 4, 4}); });
  expect_refused("profile of a demotion", [](Manifest& m) {
    m.demotions = {{"", m.n_sealed_tokens, m.n_sealed_tokens}};
  });
  expect_refused("n_sealed_tokens of a demotion", [](Manifest& m) {
    m.demotions = {{"p", 0, m.n_sealed_tokens}};
  });
  expect_refused("n_sealed_tokens of a demotion", [](Manifest& m) {
    m.demotions = {{"p", m.n_sealed_tokens + m.page_tokens, m.tokens.size()}};
  });
  expect_refused("n_sealed_tokens of a demotion", [](Manifest& m) {
    m.demotions = {{"p", m.n_sealed_tokens, m.tokens.size()},
                   {"q", m.n_sealed_tokens - m.page_tokens, m.tokens.size()}};
  });
  expect_refused("n_tokens of a demotion", [](Manifest& m) {
    m.demotions = {{"p", m.n_sealed_tokens, 1}};
  });
  expect_refused("n_tokens of a demotion", [](Manifest& m) {
    m.demotions = {{"p", m.n_sealed_tokens, m.tokens.size() + 1}};
  });
  expect_refused("multiple of page_tokens", [](Manifest& m) {
    m.demotions = {{"p", 1, m.n_sealed_tokens}};
  });
  expect_refused("tenant", [](Manifest& m) { m.tenant.assign(257, 'x'); });
  expect_refused("conversation", [](Manifest& m) { m.conversation.assign((1 << 20) + 1, 'x'); });
  expect_refused("n_layers", [](Manifest& m) { m.n_layers = 0; });
  expect_refused("page_tokens", [](Manifest& m) { m.page_tokens = 0; });
  expect_refused("n_sealed_tokens", [](Manifest& m) { m.n_sealed_tokens = 16; });
  expect_refused("multiple of page_tokens", [](Manifest& m) { m.n_sealed_tokens = 11; });
  expect_refused("n_page_keys", [](Manifest& m) { m.page_keys.pop_back(); });
  expect_refused("n_window_keys", [](Manifest& m) { m.window_keys = {KeyOf(1), KeyOf(2)}; });
  expect_refused("n_window_keys", [](Manifest& m) {
    m.tokens.resize(12);  // no token is in the window
    m.window_keys = {KeyOf(1)};
  });
  expect_refused("n_segments", [](Manifest& m) { m.segments.clear(); });
  expect_refused("first token of a segment", [](Manifest& m) { m.segments[0].first_token = 1; });
  expect_refused("first token of a segment", [](Manifest& m) { m.segments[1].first_token = 0; });
  expect_refused("first token of a segment", [](Manifest& m) { m.segments[1].first_token = 15; });
  expect_refused("relative_error_k", [](Manifest& m) {
    m.relative_error_k = std::numeric_limits<double>::quiet_NaN();
  });
}

TEST(ManifestCorruptionTest, EveryByteFlipIsDetected) {
  const std::string good = MakeManifestBytes("session", 7, {1, 2, 3});
  for (size_t offset = 0; offset < good.size(); ++offset) {
    std::string bad = good;
    bad[offset] = static_cast<char>(bad[offset] ^ (1 << (offset % 8)));
    EXPECT_EQ(Decode(bad).status().code(), StatusCode::kDataLoss) << "offset " << offset;
  }
}

TEST(ManifestCorruptionTest, EveryTruncationIsDetectedEvenWithValidChecksum) {
  const std::string good = MakeManifestBytes("session", 7, {1, 2, 3});
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_EQ(Decode(good.substr(0, size)).status().code(), StatusCode::kDataLoss) << size;
    if (size < kManifestHeaderBytes) continue;
    EXPECT_EQ(Decode(Signed(good.substr(0, size))).status().code(), StatusCode::kDataLoss) << size;
  }
}

TEST(ManifestCorruptionTest, TrailingBytesAreRejectedEvenWithValidChecksum) {
  const std::string good = MakeManifestBytes("session", 7, {1, 2, 3});
  EXPECT_EQ(Decode(good + "x").status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(Decode(Signed(good + "x")).status().code(), StatusCode::kDataLoss);
}

TEST(ManifestCorruptionTest, HugeCountsAreRefusedBeforeAnythingIsAllocated) {
  // Every 8-byte field in turn becomes a count of 2^60: none may be believed.
  const std::string good = MakeManifestBytes("session", 7, {1, 2, 3});
  const uint64_t huge = uint64_t{1} << 60;
  int n_refused = 0;
  for (size_t offset = kManifestHeaderBytes; offset + 8 <= good.size(); ++offset) {
    std::string bad = good;
    std::memcpy(bad.data() + offset, &huge, 8);
    const auto decoded = Decode(Signed(bad));
    if (decoded.ok()) continue;  // hit a field that may be anything: a key, a token, the epoch
    EXPECT_EQ(decoded.status().code(), StatusCode::kDataLoss);
    ++n_refused;
  }
  EXPECT_GT(n_refused, 50);
}

TEST(ManifestCorruptionTest, NewerVersionIsFailedPrecondition) {
  std::string bytes = MakeManifestBytes("session", 7, {1});
  bytes[4] = kManifestVersion + 1;
  EXPECT_EQ(Decode(Signed(bytes)).status().code(), StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace lexico::store

// Ids and texts equal to those of Hugging Face tokenizers on hostile Unicode, for real tokenizers
// and for small ones that exercise every component. See tests/golden/tokenizer/make_goldens.py.
#include <gtest/gtest.h>

#include "tests/worker/tokenizer_goldens.h"

namespace lexico::worker {
namespace {

using Ids = std::vector<int32_t>;

std::string Quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', /*ensure_ascii=*/true);
}

void CheckEncodeCase(const GoldenTokenizer& golden, const nlohmann::json& c) {
  const Tokenizer& tokenizer = *golden.tokenizer;
  const std::string& text = GoldenTexts()[c["i"].get<size_t>()];
  SCOPED_TRACE(golden.name + ": " + Quoted(text));
  const Ids ids = c["ids"];
  Ids full = c.value("before", Ids());
  full.insert(full.end(), ids.begin(), ids.end());
  for (const int32_t id : c.value("after", Ids())) full.push_back(id);

  const auto encode = [&](bool add_special_tokens, bool parse_special) {
    auto result = tokenizer.Encode(text, EncodeOptions{add_special_tokens, parse_special});
    EXPECT_TRUE(result.ok()) << result.status();
    return std::move(result).value_or(Ids());
  };
  EXPECT_EQ(encode(false, true), ids);
  EXPECT_EQ(encode(true, true), full);
  EXPECT_EQ(encode(false, false), c.value("unparsed", ids));

  const std::string decoded = c.value("decoded", text);
  EXPECT_EQ(tokenizer.Decode(full, false), decoded);
  EXPECT_EQ(tokenizer.Decode(full, true), c.value("skipped", decoded));
}

void CheckAll(const GoldenTokenizer& golden) {
  ASSERT_FALSE(golden.goldens["encode"].empty());
  ASSERT_FALSE(golden.goldens["decode"].empty());
  for (const auto& c : golden.goldens["encode"]) CheckEncodeCase(golden, c);
  for (const auto& c : golden.goldens["decode"]) {
    const Ids ids = c["ids"];
    EXPECT_EQ(golden.tokenizer->Decode(ids, false), c["text"].get<std::string>()) << golden.name;
    EXPECT_EQ(golden.tokenizer->Decode(ids, true), c["skipped"].get<std::string>()) << golden.name;
  }
}

TEST(TokenizerGoldenTest, EveryComponentGivesTheIdsOfTheLibrary) {
  const auto variants = VariantTokenizers();
  ASSERT_GT(variants.size(), 60u);
  for (const GoldenTokenizer& golden : variants) CheckAll(golden);
}

class RealTokenizerTest : public testing::TestWithParam<const char*> {};

TEST_P(RealTokenizerTest, GivesTheIdsOfTheLibrary) {
  const GoldenTokenizer golden = RealTokenizer(GetParam());
  if (golden.tokenizer == nullptr) {
    GTEST_SKIP() << GetParam() << " is not part of this repository; set LEXICO_SHARED_DIR";
  }
  CheckAll(golden);
}

INSTANTIATE_TEST_SUITE_P(Real, RealTokenizerTest, testing::ValuesIn(kRealTokenizers),
                         [](const auto& param) {
                           std::string name = param.param;
                           std::erase_if(name, [](char c) { return !isalnum(c); });
                           return name;
                         });

}  // namespace
}  // namespace lexico::worker

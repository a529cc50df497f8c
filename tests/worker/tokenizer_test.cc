// What goes beyond goldens: options of Encode, ids and tokens, text that is not UTF-8, files that
// are refused, and the cost of hostile texts.
#include "worker/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "tests/support/temp_dir.h"
#include "tests/worker/tokenizer_goldens.h"

namespace lexico::worker {
namespace {

using testing::HasSubstr;
using Ids = std::vector<int32_t>;

const Tokenizer& Embedded() {
  static const auto tokenizer = RealTokenizer("lexico-20m").tokenizer;
  return *tokenizer;
}

nlohmann::json Base(const std::string& name) {
  return ReadJson(kGoldenFolder + ("base_" + name) + ".json");
}

std::shared_ptr<const Tokenizer> Make(const nlohmann::json& spec) {
  auto tokenizer = Tokenizer::FromJson(spec.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *tokenizer : nullptr;
}

TEST(TokenizerTest, SpecialTokensInUserTextAreText) {
  const int32_t end = Embedded().TokenToId("<|end|>").value();
  const std::string text = "a<|end|>b";
  const auto parsed = Embedded().Encode(text, {.add_special_tokens = false}).value();
  EXPECT_EQ(std::ranges::count(parsed, end), 1);
  const auto unparsed =
      Embedded().Encode(text, {.add_special_tokens = false, .parse_special = false}).value();
  EXPECT_TRUE(std::ranges::none_of(unparsed, [](int32_t id) { return Embedded().IsSpecial(id); }));
  EXPECT_EQ(Embedded().Decode(unparsed, false), text);
}

// A model whose merges, or whole words, make a special token.
TEST(TokenizerTest, UserTextCannotReachASpecialTokenThroughTheModel) {
  for (const bool ignore_merges : {false, true}) {
    nlohmann::json spec = Base("bytes");
    spec["pre_tokenizer"] = {{"type", "ByteLevel"},
                             {"add_prefix_space", false},
                             {"trim_offsets", true},
                             {"use_regex", false}};
    auto& vocab = spec["model"]["vocab"];
    vocab["<e"] = 500;
    vocab["<e>"] = 501;
    spec["model"]["merges"] = nlohmann::json::parse(R"([["<", "e"], ["<e", ">"]])");
    spec["model"]["ignore_merges"] = ignore_merges;
    spec["added_tokens"].push_back({{"id", 501},
                                    {"content", "<e>"},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false},
                                    {"special", true}});
    const auto tokenizer = Make(spec);
    EXPECT_EQ(tokenizer->Encode("<e>", false).value(), Ids{501});
    const auto ids =
        tokenizer->Encode("<e>", {.add_special_tokens = false, .parse_special = false}).value();
    EXPECT_EQ(ids, (Ids{500, tokenizer->TokenToId(">").value()}));
    EXPECT_EQ(tokenizer->Decode(ids, false), "<e>");
  }
}

TEST(TokenizerTest, TextThatIsNotUtf8IsRefusedWithItsOffset) {
  const std::pair<const char*, int> cases[] = {
      {"\xFF", 0},
      {"abc\x80", 3},                   // a lone continuation byte
      {"ab\xC3", 2},                    // an unfinished sequence
      {"\xC0\xAF", 0},                  // overlong
      {"\xE0\x80\xAF", 0},              // overlong
      {"\xF0\x80\x80\xAF", 0},          // overlong
      {"x\xED\xA0\x80", 1},             // a surrogate
      {"\xED\xA0\xBD\xED\xB8\x80", 0},  // a pair of surrogates
      {"\xF4\x90\x80\x80", 0},          // over U+10FFFF
      {"\xF8\x88\x80\x80\x80", 0},
      {"\xE4\xBD\xA0\xE5\xA5", 3}};
  for (const auto& [text, offset] : cases) {
    const auto status = Embedded().Encode(text, false).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("byte " + std::to_string(offset) + " of"));
  }
}

TEST(TokenizerTest, NulBytesAreText) {
  const std::string text("a\0b\0", 4);
  const auto ids = Embedded().Encode(text, false).value();
  EXPECT_EQ(Embedded().Decode(ids, false), text);
}

TEST(TokenizerTest, TokensAndIdsMapBothWays) {
  EXPECT_EQ(Embedded().vocab_size(), 8192);
  for (int32_t id = 0; id < Embedded().vocab_size(); ++id) {
    EXPECT_EQ(Embedded().TokenToId(Embedded().IdToToken(id)), id);
  }
  EXPECT_EQ(Embedded().TokenToId("no such token"), std::nullopt);
  EXPECT_EQ(Embedded().IdToToken(-1), "");
  EXPECT_EQ(Embedded().IdToToken(8192), "");
  EXPECT_TRUE(Embedded().IsSpecial(0));
  EXPECT_FALSE(Embedded().IsSpecial(8));
  EXPECT_FALSE(Embedded().IsSpecial(-1));
  EXPECT_FALSE(Embedded().IsSpecial(8192));
}

TEST(TokenizerTest, IdsOutsideTheVocabularyAreNamedWithTheBound) {
  EXPECT_TRUE(Embedded().CheckIds({}).ok());
  EXPECT_TRUE(Embedded().CheckIds(Ids{0, 8191}).ok());
  for (const int32_t id : {-1, 8192, 99999999}) {
    const absl::Status status = Embedded().CheckIds(Ids{0, id});
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::to_string(id)));
    EXPECT_THAT(std::string(status.message()), HasSubstr("0 to 8191"));
  }
}

TEST(TokenizerTest, DecodingSkipsIdsWithoutTokenAndSpecialOnesWhenAsked) {
  const Ids ids = {-5, 0, Embedded().TokenToId("a").value(), 1 << 30};
  EXPECT_EQ(Embedded().Decode(ids, false), "<|begin_of_text|>a");
  EXPECT_EQ(Embedded().Decode(ids, true), "a");
}

TEST(TokenizerTest, TheFingerprintIsOfTheFile) {
  nlohmann::json spec = Base("bytes");
  const auto a = Make(spec);
  const auto b = Make(spec);
  spec["model"]["merges"].erase(spec["model"]["merges"].size() - 1);
  const auto c = Make(spec);
  EXPECT_EQ(a->fingerprint(), b->fingerprint());
  EXPECT_NE(a->fingerprint(), c->fingerprint());
  EXPECT_FALSE(a->fingerprint().IsZero());
}

TEST(TokenizerTest, ThreadsShareOneTokenizer) {
  const std::string text = GoldenTexts()[20] + " the cat's 123 caf\u00e9 <|end|>";
  const auto expected = Embedded().Encode(text, true).value();
  std::vector<std::thread> threads;
  std::atomic<int> n_wrong = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 50; ++round) {
        if (Embedded().Encode(text, true).value() != expected) ++n_wrong;
        if (Embedded().Decode(expected, false).empty()) ++n_wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(n_wrong, 0);
}

// A million characters without a place to split: quadratic work would take hours.
TEST(TokenizerTest, OneEndlessWordIsNoWorseThanText) {
  std::string word;
  for (uint32_t i = 0; i < (1u << 20); ++i)
    word.push_back(static_cast<char>('a' + (i * 7919 >> 7) % 26));
  for (const std::string& text : {word, std::string(1 << 20, 'a'), std::string(1 << 20, ' ')}) {
    for (const char* base : {"bytes", "pieces"}) {
      const auto tokenizer = Make(Base(base));
      const auto ids = tokenizer->Encode(text, false);
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_EQ(tokenizer->Decode(*ids, false), text);
    }
  }
}

// Cutting a long word and coding it whole must agree: the same text behind a letter that no token
// joins with, in one word and in two.
TEST(TokenizerTest, LongWordsAreCodedAsShortOnes) {
  const auto tokenizer = Make(Base("pieces"));
  for (const std::string& text : GoldenTexts()) {
    if (text.empty() || text.find('<') != std::string::npos) continue;
    std::string repeated;
    while (repeated.size() <= 200)
      repeated += text + "\u4e00";  // coded as bytes, joins with nothing
    Ids expected = tokenizer->Encode(text + "\u4e00", false).value();
    const auto ids = tokenizer->Encode(repeated, false).value();
    ASSERT_GE(ids.size(), expected.size());
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), ids.begin())) << text;
  }
}

TEST(TokenizerTest, APathologicalPatternGivesUpInsteadOfHanging) {
  nlohmann::json spec = Base("bytes");
  spec["pre_tokenizer"] = {{"type", "Split"},
                           {"pattern", {{"Regex", "(?:a|aa)+(?![ac])"}}},
                           {"behavior", "Isolated"},
                           {"invert", false}};
  const auto status = Make(spec)->Encode(std::string(200, 'a') + "c", false).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("gave up"));
}

TEST(TokenizerTest, AReplaceThatExplodesIsRefused) {
  nlohmann::json spec = Base("bytes");
  spec["normalizer"] = {
      {"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(4000, 'a')}};
  const auto status = Make(spec)->Encode(std::string(100'000, 'a'), false).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
}

TEST(TokenizerTest, AnUnknownTokenOutsideOfTheVocabularyIsAnErrorWhenNeeded) {
  nlohmann::json spec = Base("pieces");
  spec["model"]["byte_fallback"] = false;
  spec["model"]["unk_token"] = "<nothing>";
  const auto tokenizer = Make(spec);
  EXPECT_TRUE(tokenizer->Encode("the", false).ok());
  EXPECT_EQ(tokenizer->Encode("\u6f22", false).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(TokenizerLoadTest, AMissingFileIsNotFoundByName) {
  const auto status = Tokenizer::Load("/no/such/tokenizer.json").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/no/such/tokenizer.json"));
}

TEST(TokenizerLoadTest, EveryTruncationIsInvalid) {
  tests::TempDir dir;
  const std::string good = Base("bytes").dump();
  for (size_t size = 0; size < good.size(); size += 97) {
    const std::string path = dir.Write("tokenizer.json", good.substr(0, size));
    EXPECT_EQ(Tokenizer::Load(path).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

// Each edit makes one thing wrong; the message says what and where.
TEST(TokenizerLoadTest, WrongFilesAreRefusedWithTheirPlace) {
  struct Edit {
    const char* place;
    const char* value;
    const char* message;
  };
  const Edit edits[] = {
      {"/version", R"("2.0")", "version is '2.0'"},
      {"/normalizer", R"({"type": "Precompiled"})", "normalizer: unknown type 'Precompiled'"},
      {"/normalizer", R"({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Nmt"}]})",
       "normalizer.normalizers[1]: unknown type 'Nmt'"},
      {"/normalizer", "{}", "normalizer: 'type' must be a string, it is missing"},
      {"/normalizer", R"({"type": "Strip", "strip_left": 1})",
       "'strip_left' must be true or false"},
      {"/pre_tokenizer", R"({"type": "UnicodeScripts"})", "unknown type 'UnicodeScripts'"},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated",
                             "invert": false})",
       "not a regular expression"},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Odd",
                             "invert": false})",
       "unknown behavior 'Odd'"},
      {"/pre_tokenizer", R"({"type": "Split", "behavior": "Isolated", "invert": false})",
       "'String' must be a string"},
      {"/pre_tokenizer", R"({"type": "Metaspace", "replacement": "ab"})", "one character"},
      {"/pre_tokenizer", R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "odd"})",
       "unknown prepend_scheme 'odd'"},
      {"/pre_tokenizer", R"({"type": "Metaspace", "replacement": "_", "add_prefix_space": false})",
       "must be 'never'"},
      {"/pre_tokenizer", R"({"type": "FixedLength", "length": 0})", "whole number from 1"},
      {"/post_processor", R"({"type": "Odd"})", "post_processor: unknown type 'Odd'"},
      {"/post_processor", R"({"type": "TemplateProcessing", "single": [], "special_tokens": {}})",
       "exactly once"},
      {"/post_processor", R"({"type": "TemplateProcessing", "special_tokens": {}, "single": [
          {"SpecialToken": {"id": "X"}}, {"Sequence": {"id": "A"}}]})",
       "does not list"},
      {"/post_processor", R"({"type": "TemplateProcessing", "special_tokens": {}, "single": [
          {"Sequence": {"id": "B"}}]})",
       "second text"},
      {"/post_processor", R"({"type": "BertProcessing", "cls": 0})", "must be a token and its id"},
      {"/post_processor", R"({"type": "Sequence", "processors": [{"type": "Sequence"}]})",
       "not supported"},
      {"/decoder", R"({"type": "CTC"})", "decoder: unknown type 'CTC'"},
      {"/decoder", R"({"type": "BPEDecoder", "suffix": ""})", "must not be empty"},
      {"/decoder", R"({"type": "Strip", "content": "a", "start": -1, "stop": 0})", "'start'"},
      {"/decoder", R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "odd"})", "odd"},
      {"/model/type", R"("Unigram")", "model: unknown type 'Unigram'"},
      {"/model/dropout", "0.1", "dropout"},
      {"/model/vocab", "[]", "model.vocab: must be an object"},
      {"/model/vocab/a", "-1", "the id of 'a'"},
      {"/model/vocab/a", "1048576", "the id of 'a'"},
      {"/model/vocab/a", "0", "is given to both"},
      {"/model/merges", "{}", "model.merges: must be an array"},
      {"/model/merges/0", R"(["a", "nothing"])", "token 'nothing' is not in the vocabulary"},
      {"/model/merges/0", R"(["a", "~"])", "token 'a~' is not in the vocabulary"},
      {"/model/merges/0", R"("a")", "not two tokens"},
      {"/model/merges/0", "7", "no pair of tokens"},
      {"/added_tokens", "{}", "added_tokens: must be an array"},
      {"/added_tokens/1/content", R"("<s>")", "is there twice"},
      {"/added_tokens/1/lstrip", "null", "added_tokens[1]: 'lstrip' must be true or false"},
  };
  for (const Edit& edit : edits) {
    nlohmann::json spec = Base("bytes");
    spec[nlohmann::json::json_pointer(edit.place)] = nlohmann::json::parse(edit.value);
    const auto status = Tokenizer::FromJson(spec.dump()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << edit.place << edit.value;
    EXPECT_THAT(std::string(status.message()), HasSubstr(edit.message));
  }
}

TEST(TokenizerLoadTest, ComponentsNestedWithoutEndAreRefused) {
  for (const auto& [field, list] :
       {std::pair("normalizer", "normalizers"), std::pair("pre_tokenizer", "pretokenizers"),
        std::pair("decoder", "decoders")}) {
    nlohmann::json component = {{"type", "Sequence"}, {list, nlohmann::json::array()}};
    for (int i = 0; i < 20; ++i)
      component = {{"type", "Sequence"}, {list, nlohmann::json::array({component})}};
    nlohmann::json spec = Base("bytes");
    spec[field] = component;
    const auto status = Tokenizer::FromJson(spec.dump()).status();
    EXPECT_THAT(std::string(status.message()), HasSubstr("nested deeper"));
  }
}

}  // namespace
}  // namespace lexico::worker

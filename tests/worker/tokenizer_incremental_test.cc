// The guarantees D1 to D3 of incremental_decoder.h, on every golden and on random ids.
#include <gtest/gtest.h>

#include <random>

#include "tests/worker/tokenizer_goldens.h"
#include "worker/tokenizer/incremental_decoder.h"
#include "worker/tokenizer/unicode.h"

namespace lexico::worker {
namespace {

using Ids = std::vector<int32_t>;

// Decodes one id at a time, checking D2 on every piece. D3 holds because pieces are only appended.
std::string DecodeInPieces(IncrementalDecoder* decoder, const Ids& ids) {
  std::string text;
  for (const int32_t id : ids) {
    const std::string piece = decoder->Push(id);
    EXPECT_TRUE(CheckUtf8(piece).ok()) << "piece of id " << id;
    text += piece;
  }
  const std::string rest = decoder->Flush();
  EXPECT_TRUE(CheckUtf8(rest).ok());
  return text + rest;
}

void CheckAll(const GoldenTokenizer& golden) {
  for (const bool skip_special : {false, true}) {
    IncrementalDecoder decoder(golden.tokenizer, skip_special);  // one for all: Flush starts anew
    const auto check = [&](const Ids& ids) {
      EXPECT_EQ(DecodeInPieces(&decoder, ids), golden.tokenizer->Decode(ids, skip_special))
          << golden.name;
    };
    for (const auto& c : golden.goldens["encode"]) check(c["ids"]);
    for (const auto& c : golden.goldens["decode"]) check(c["ids"]);
  }
}

TEST(IncrementalDecoderTest, PiecesJoinToTheWholeTextForEveryDecoder) {
  for (const GoldenTokenizer& golden : VariantTokenizers()) CheckAll(golden);
}

TEST(IncrementalDecoderTest, PiecesJoinToTheWholeTextForRealTokenizers) {
  int n_checked = 0;
  for (const char* name : kRealTokenizers) {
    const GoldenTokenizer golden = RealTokenizer(name);
    if (golden.tokenizer == nullptr) continue;
    CheckAll(golden);
    ++n_checked;
  }
  EXPECT_GE(n_checked, 1);
}

TEST(IncrementalDecoderTest, RandomIdsJoinToTheWholeText) {
  const GoldenTokenizer golden = RealTokenizer("lexico-20m");
  std::mt19937 random(20261124);
  IncrementalDecoder decoder(golden.tokenizer, /*skip_special=*/false);
  for (int round = 0; round < 300; ++round) {
    Ids ids(random() % 40);
    // Small ids are single bytes: most sequences break characters.
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % (round % 2 == 0 ? 264 : 8192));
    EXPECT_EQ(DecodeInPieces(&decoder, ids), golden.tokenizer->Decode(ids, false));
  }
}

std::shared_ptr<const Tokenizer> Pieces(const nlohmann::json& decoder) {
  nlohmann::json spec = ReadJson(std::string(kGoldenFolder) + "base_pieces.json");
  spec["decoder"] = decoder;
  auto tokenizer = Tokenizer::FromJson(spec.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *tokenizer;
}

TEST(IncrementalDecoderTest, BytesOfACharacterAreHeldUntilTheRunEnds) {
  const auto tokenizer =
      Pieces(ReadJson(std::string(kGoldenFolder) + "base_pieces.json")["decoder"]);
  const auto id = [&](const char* token) { return tokenizer->TokenToId(token).value(); };
  IncrementalDecoder decoder(tokenizer, false);
  EXPECT_EQ(decoder.Push(id("a")), "a");
  EXPECT_EQ(decoder.Push(id("<0xC3>")), "");
  EXPECT_EQ(decoder.Push(id("<0xA9>")), "");  // a further byte would break the run as a whole
  EXPECT_EQ(decoder.Push(id("b")),
            "\xC3\xA9"
            "b");
  EXPECT_EQ(decoder.Push(id("<0xC3>")), "");
  EXPECT_EQ(decoder.Push(id("b")),
            "\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(decoder.Push(id("<0xC3>")), "");
  EXPECT_EQ(decoder.Flush(), "\xEF\xBF\xBD");
}

TEST(IncrementalDecoderTest, OnlyTheFirstSpaceOfAnAnswerIsStripped) {
  const auto tokenizer =
      Pieces(ReadJson(std::string(kGoldenFolder) + "base_pieces.json")["decoder"]);
  const int32_t the = tokenizer->TokenToId("\u2581the").value();
  IncrementalDecoder decoder(tokenizer, false);
  EXPECT_EQ(decoder.Push(the), "the");
  EXPECT_EQ(decoder.Push(the), " the");
  EXPECT_EQ(decoder.Flush(), "");
  EXPECT_EQ(decoder.Push(the), "the");  // a new answer
}

TEST(IncrementalDecoderTest, TrailingTextThatMayBeStrippedIsHeld) {
  const auto tokenizer = Pieces(nlohmann::json::parse(R"({"type": "Sequence", "decoders": [
      {"type": "Fuse"}, {"type": "Strip", "content": "a", "start": 0, "stop": 2}]})"));
  const int32_t a = tokenizer->TokenToId("a").value();
  const int32_t b = tokenizer->TokenToId("b").value();
  IncrementalDecoder decoder(tokenizer, false);
  EXPECT_EQ(decoder.Push(a), "");
  EXPECT_EQ(decoder.Push(b), "ab");
  EXPECT_EQ(decoder.Push(a), "");
  EXPECT_EQ(decoder.Push(a), "");
  EXPECT_EQ(decoder.Push(a), "a");
  EXPECT_EQ(decoder.Flush(), "");
}

TEST(IncrementalDecoderTest, UnknownIdsGiveNothing) {
  const GoldenTokenizer golden = RealTokenizer("lexico-20m");
  IncrementalDecoder decoder(golden.tokenizer, false);
  EXPECT_EQ(decoder.Push(-1), "");
  EXPECT_EQ(decoder.Push(INT32_MAX), "");
  EXPECT_EQ(decoder.Flush(), "");
}

}  // namespace
}  // namespace lexico::worker

#include "tools/bench_serving/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <string_view>

#include "proto/base/status.h"

namespace lexico::bench_serving {
namespace {

constexpr int64_t kSampleWords = 2000;
constexpr int kWordsOfLine = 12;

constexpr auto kWords = std::to_array<std::string_view>(
    {"the",    "a",      "of",     "and",    "in",     "house", "river",  "garden", "old",
     "small",  "green",  "stone",  "walked", "opened", "found", "said",   "they",   "she",
     "before", "after",  "letter", "winter", "door",   "key",   "bridge", "market", "horse",
     "bread",  "water",  "light",  "quiet",  "long",   "under", "toward", "with",   "because",
     "never",  "always", "asked",  "wrote",  "child",  "town",  "night",  "field",  "paper",
     "window", "road",   "summer", "friend", "story",  "clock", "silver", "boat",   "teacher"});

std::string_view RandomWord(std::mt19937_64& bits) { return kWords[bits() % kWords.size()]; }

}  // namespace

std::string RandomWords(int64_t n, uint64_t seed) {
  std::mt19937_64 bits(seed);
  std::string text;
  for (int64_t i = 0; i < n; ++i) {
    if (i > 0) text += i % kWordsOfLine == 0 ? '\n' : ' ';
    text += RandomWord(bits);
  }
  return text;
}

std::string RandomQuestion(uint64_t seed) {
  std::mt19937_64 bits(seed);
  return fmt::format("What does the text say about the {}?", RandomWord(bits));
}

absl::StatusOr<int64_t> WordsOfTokens(const cli::Client& client, const std::string& model,
                                      int64_t n_tokens) {
  if (n_tokens == 0) return 0;
  v1::TokenizeRequest request;
  request.set_model(model);
  request.set_text(RandomWords(kSampleWords, /*seed=*/0));
  LEXICO_ASSIGN_OR_RETURN(const v1::TokenizeResponse response,
                          client.Call(&v1::Inference::Stub::Tokenize, request));
  const double tokens_of_word =
      static_cast<double>(std::max(1, response.ids_size())) / kSampleWords;
  const double n_words = static_cast<double>(n_tokens) / tokens_of_word;
  return std::max<int64_t>(1, std::llround(n_words));
}

}  // namespace lexico::bench_serving

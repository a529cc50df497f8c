// Documents with hidden facts, and the questions that find them again: the retrieval task of the
// embedded model (models/lexico-20m/MODEL_CARD.md) and the text of tools/demo.
//
// A document is prose with one sentence per fact at a random place ("The access code for the tide
// house of Boka is 48213."). The prose is generated, or taken from a text file (sentences of a
// random slice). Everything follows from the seed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/tokenizer/tokenizer.h"

namespace lexico::eval {

// SplitMix64 (Steele, Lea, Flood 2014): small, seedable, the same on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next();
  // Uniform in [0, n). REQUIRES: n > 0.
  uint64_t Below(uint64_t n) { return Next() % n; }

 private:
  uint64_t state_;
};

struct Fact {
  std::string sentence;
  std::string question;
  std::string answer;
  double depth = 0;  // where in the document, 0 = start, 1 = end
};

struct Document {
  std::string text;
  std::vector<Fact> facts;
};

struct DocumentOptions {
  int64_t n_bytes = 70000;  // of prose; about 3.6 bytes a token with the embedded model
  int n_facts = 8;          // at most 200
  uint64_t seed = 1;
  std::string text_file;  // empty: generated prose
};

// NotFound or InvalidArgument when the text file is missing or has fewer than n_bytes.
absl::StatusOr<Document> MakeDocument(const DocumentOptions& options);

// A document of about `n_tokens` tokens and never more: n_bytes is searched for, starting from
// 3.6 bytes a token.
absl::StatusOr<Document> MakeDocumentOfTokens(DocumentOptions options,
                                              const worker::Tokenizer& tokenizer, int64_t n_tokens);

// Whether a generated answer is right: equal after trimming white space and a final full stop.
bool IsRightAnswer(std::string_view given, std::string_view expected);

}  // namespace lexico::eval

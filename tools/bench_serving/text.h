// What the simulated users read and ask. Random words: speed does not depend on what a text says.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "tools/cli/client.h"

namespace lexico::bench_serving {

// `n` words with a space between them, on a line of its own every twelve. The same seed gives the
// same text.
std::string RandomWords(int64_t n, uint64_t seed);

// A question with a random word in it.
std::string RandomQuestion(uint64_t seed);

// How many random words the model's tokenizer makes about `n_tokens` tokens of, at least one; 0
// for 0. Asks the service to tokenize a sample. Errors as Tokenize.
absl::StatusOr<int64_t> WordsOfTokens(const cli::Client& client, const std::string& model,
                                      int64_t n_tokens);

}  // namespace lexico::bench_serving

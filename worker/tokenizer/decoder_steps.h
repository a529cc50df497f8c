// The steps of decoder.h, one maker each. What each does to a list of tokens is said beside it; the
// steps themselves see the tokens one at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "worker/tokenizer/decoder.h"
#include "worker/tokenizer/replace.h"

namespace lexico::worker {

// A space between any two tokens: what happens without a decoder.
std::unique_ptr<DecoderStep> MakeJoinStep();

// One token of all: characters of the byte-level alphabet back to bytes, broken UTF-8 to U+FFFD. A
// token with any other character stands for itself (added tokens).
std::unique_ptr<DecoderStep> MakeByteLevelStep();

// A run of tokens "<0x41>" becomes the characters of its bytes, or if the run as a whole is not
// UTF-8 one U+FFFD for each byte.
std::unique_ptr<DecoderStep> MakeByteFallbackStep();

// One token of all.
std::unique_ptr<DecoderStep> MakeFuseStep();

// Replaces in every token. A regular expression that runs out of its step budget leaves the token
// as it is. `replacer` must outlive the step.
std::unique_ptr<DecoderStep> MakeReplaceStep(const Replacer& replacer);

// Takes up to `start` times `content` from the front of every token and up to `stop` from its end.
std::unique_ptr<DecoderStep> MakeStripStep(char32_t content, int64_t start, int64_t stop);

// `replacement` becomes a space; in the first token it vanishes if `drop_first`.
std::unique_ptr<DecoderStep> MakeMetaspaceStep(char32_t replacement, bool drop_first);

// `suffix` becomes a space, in the last token nothing.
std::unique_ptr<DecoderStep> MakeBpeStep(std::string suffix);

}  // namespace lexico::worker

// Ids to text one at a time, for streaming an answer.
//
// Guarantees, for any ids (tests/worker/tokenizer_incremental_test.cc):
//   D1  the concatenation of all Push results and Flush equals Tokenizer::Decode of all ids
//   D2  every returned piece is valid UTF-8: never half a character
//   D3  what was returned is never taken back: text that a later id could change (bytes of an
//       unfinished character, a run of byte-fallback tokens, trailing text that a decoder may
//       strip) is held until it is certain
//
// Thread safety: thread-compatible; one decoder per answer.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "worker/tokenizer/tokenizer.h"

namespace lexico::worker {

class DecoderStream;

class IncrementalDecoder {
 public:
  // `skip_special` as in Tokenizer::Decode. Shares ownership of the tokenizer.
  IncrementalDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special);
  ~IncrementalDecoder();
  IncrementalDecoder(IncrementalDecoder&&) noexcept;
  IncrementalDecoder& operator=(IncrementalDecoder&&) noexcept;

  // The text that is certain now and was not before; often "". Ids without a token give "".
  std::string Push(int32_t id);

  // The rest: what Push still held back. The decoder is then as new, ready for the next answer.
  std::string Flush();

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  bool skip_special_;
  std::unique_ptr<DecoderStream> stream_;
};

}  // namespace lexico::worker

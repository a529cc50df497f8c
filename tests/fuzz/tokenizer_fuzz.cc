// Bytes as a tokenizer.json, which is then used: whatever loads must encode and decode without a
// crash, and decode in pieces as in one. Begin with the small tokenizers of tests/golden/tokenizer.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "proto/base/check.h"
#include "worker/tokenizer/incremental_decoder.h"
#include "worker/tokenizer/tokenizer.h"
#include "worker/tokenizer/unicode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lexico::worker;  // NOLINT: one function
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  // Behind the last NUL: the text to encode.
  const size_t split = bytes.rfind('\0');
  const std::string_view json = bytes.substr(0, split);
  std::string text =
      "The cat's 123  caf\xC3\xA9 \xE6\xBC\xA2\xE5\xAD\x97 <s></s> \n\n\xF0\x9F\x98\x80";
  if (split != std::string_view::npos) text += bytes.substr(split + 1);

  const auto tokenizer = Tokenizer::FromJson(json);
  if (!tokenizer.ok()) return 0;
  for (const bool parse_special : {true, false}) {
    const auto ids = (*tokenizer)->Encode(text, EncodeOptions{true, parse_special});
    if (!ids.ok()) continue;
    const std::string decoded = (*tokenizer)->Decode(*ids, false);
    LEXICO_CHECK(CheckUtf8(decoded).ok());
    IncrementalDecoder decoder(*tokenizer, false);
    std::string pieces;
    for (const int32_t id : *ids) pieces += decoder.Push(id);
    pieces += decoder.Flush();
    LEXICO_CHECK(pieces == decoded);
  }
  return 0;
}

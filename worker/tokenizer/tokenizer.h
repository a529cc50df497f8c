// Text to token ids and back, read from a Hugging Face tokenizer.json and exact to the `tokenizers`
// library that wrote it (checked against version 0.23 in tests/worker/tokenizer_golden_test.cc).
//
// The pipeline of Encode, each stage a file of this folder:
//
//   added tokens (not normalized) -> normalizer -> added tokens (normalized)    added_vocabulary.h
//   -> pre-tokenizer -> BPE model -> post-processor        normalizer.h pre_tokenizer.h bpe.h ...
//
// Models: BPE only (byte-level, or SentencePiece-style with byte fallback). A component we do not
// implement is refused at load with its type and where it stands; nothing is silently skipped,
// except `truncation` and `padding`, which are options of a training batch and not of the text.
//
// Thread safety: immutable after load; all methods may be called from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/base/hash.h"

namespace lexico::worker {

struct EncodeOptions {
  // Run the post-processor's template, which usually puts the begin-of-text token in front.
  bool add_special_tokens = true;

  // Recognise special tokens such as "<|end|>" in the text. True for text that we wrote (the pieces
  // of a chat template), false for text of users and documents: they must not be able to forge
  // the end of a turn. When false no special id can come out, whatever the text (other than the
  // unknown token and what the post-processor adds).
  bool parse_special = true;
};

class Tokenizer {
 public:
  // Reads and checks a tokenizer.json. NotFound: no such file. InvalidArgument: not JSON, an
  // unknown component, a value of the wrong type, an id or a size over limits.h; the message says
  // where in the file ("pre_tokenizer.pretokenizers[1]: ...").
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> Load(const std::string& path);
  // The same from the text of the file.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> FromJson(std::string_view json);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Ids of `utf8`. Time and memory are near linear in its length, also for one endless "word".
  // InvalidArgument: not UTF-8 (the message names the byte offset), or a regular expression of the
  // tokenizer ran out of its step budget on this text.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view utf8, EncodeOptions options) const;
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view utf8,
                                              bool add_special_tokens) const {
    return Encode(utf8, EncodeOptions{.add_special_tokens = add_special_tokens});
  }

  // Text of `ids`, always valid UTF-8: bytes that form no character become U+FFFD. Ids without a
  // token are skipped. `skip_special` leaves the special tokens out.
  std::string Decode(std::span<const int32_t> ids, bool skip_special) const;

  // InvalidArgument with the first id outside [0, vocab_size()) and that bound.
  absl::Status CheckIds(std::span<const int32_t> ids) const;

  // The id of exactly this token, added tokens first.
  std::optional<int32_t> TokenToId(std::string_view token) const;
  // The token as it stands in the vocabulary (byte-level alphabet, "▁", "<0x0A>"); "" if none.
  std::string IdToToken(int32_t id) const;
  // Largest id + 1. Ids below it may be unused.
  int vocab_size() const;
  bool IsSpecial(int32_t id) const;

  // Of the whole file: pages made with another tokenizer are refused by it.
  base::Fingerprint fingerprint() const;

 private:
  friend class IncrementalDecoder;
  struct Parts;
  explicit Tokenizer(std::unique_ptr<const Parts> parts);

  std::unique_ptr<const Parts> parts_;
};

}  // namespace lexico::worker

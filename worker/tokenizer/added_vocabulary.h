// The added tokens of a tokenizer.json ("<|end|>", "<tool_call>"): found in the text before
// anything else and never split.
//
// Two sets, each matched leftmost-longest: tokens with normalized = false in the raw text, the
// others (in their normalized form) in the normalized text.
//
// Thread safety: immutable after Read; const methods may be called from any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "worker/tokenizer/bpe.h"
#include "worker/tokenizer/component.h"
#include "worker/tokenizer/normalizer.h"
#include "worker/tokenizer/string_map.h"

namespace lexico::worker {

// Finds the longest of a set of strings that begins at a place. A trie in one array.
class StringSet {
 public:
  // False when `text` is already in the set.
  bool Add(std::string_view text, int32_t value);
  bool empty() const { return nodes_.size() == 1; }

  struct Found {
    size_t begin;
    size_t end;
    int32_t value;
  };
  // The first place at or after `from` where one begins, and the longest there.
  std::optional<Found> FindNext(std::string_view text, size_t from) const;

 private:
  struct Node {
    int32_t value = -1;                             // -1: no string ends here
    std::vector<std::pair<uint8_t, int32_t>> next;  // by byte, sorted
  };
  std::vector<Node> nodes_ = std::vector<Node>(1);
  bool begins_[256] = {};  // bytes that some string begins with
};

struct AddedToken {
  std::string content;
  std::string decoded;       // what Decode sees: the normalized form
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and the white space behind it
  bool normalized = false;
  bool special = false;
};

// A part of a text: an added token (id >= 0), or text for the model (id = -1).
struct TextPart {
  size_t begin;
  size_t end;
  int32_t id;
};

class AddedVocabulary {
 public:
  // From the array "added_tokens"; null means none. A token that the model knows keeps the model's
  // id, the others are numbered on from the number of the model's tokens, in the order of the file:
  // what the library does, whatever "id" says. InvalidArgument: a field is missing, or two tokens
  // look alike.
  static absl::StatusOr<AddedVocabulary> Read(const Component& list, const Bpe& model,
                                              const Normalizer* normalizer);

  // Splits a text at the tokens of one set. With parse_special = false special tokens are text.
  std::vector<TextPart> SplitRaw(std::string_view text, bool parse_special) const {
    return Split(raw_, text, parse_special);
  }
  std::vector<TextPart> SplitNormalized(std::string_view text, bool parse_special) const {
    return Split(normalized_, text, parse_special);
  }

  // Null when the id is no added token.
  const AddedToken* Find(int32_t id) const;
  std::optional<int32_t> TokenToId(std::string_view token) const;
  // By content: a token of the model may have the content of a special token.
  bool IsSpecial(std::string_view token) const { return special_.contains(token); }
  int id_bound() const { return id_bound_; }  // largest id + 1; 0 without tokens
  const HashedStrings& special() const { return special_; }

 private:
  absl::Status Add(const Component& at, const Bpe& model, const Normalizer* normalizer);
  std::vector<TextPart> Split(const StringSet& set, std::string_view text,
                              bool parse_special) const;

  absl::flat_hash_map<int32_t, AddedToken> tokens_;
  StringMap<int32_t> ids_;
  HashedStrings special_;
  StringSet raw_;
  StringSet normalized_;
  int id_bound_ = 0;
  int n_new_ = 0;  // tokens that the model does not know
};

}  // namespace lexico::worker

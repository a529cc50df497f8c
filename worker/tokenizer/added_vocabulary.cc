#include "worker/tokenizer/added_vocabulary.h"

#include <algorithm>

#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "worker/tokenizer/unicode.h"

namespace lexico::worker {
namespace {

bool EndsWithWord(std::string_view text) {
  size_t offset = text.size();
  return !text.empty() && IsWordChar(PreviousChar(text, &offset));
}

bool StartsWithWord(std::string_view text) {
  size_t offset = 0;
  return !text.empty() && IsWordChar(NextChar(text, &offset));
}

// Where the white space that ends at `end` begins.
size_t SpaceBefore(std::string_view text, size_t end) {
  for (size_t begin = end; end > 0; end = begin) {
    if (!IsWhitespace(PreviousChar(text, &begin))) break;
  }
  return end;
}

// Where the white space that begins at `begin` ends.
size_t SpaceBehind(std::string_view text, size_t begin) {
  for (size_t end = begin; begin < text.size(); begin = end) {
    if (!IsWhitespace(NextChar(text, &end))) break;
  }
  return begin;
}

}  // namespace

bool StringSet::Add(std::string_view text, int32_t value) {
  int32_t node = 0;
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    auto& next = nodes_[static_cast<size_t>(node)].next;
    auto it = std::ranges::lower_bound(next, byte, {}, &std::pair<uint8_t, int32_t>::first);
    if (it == next.end() || it->first != byte) {
      const auto created = static_cast<int32_t>(nodes_.size());
      next.emplace(it, byte, created);
      nodes_.emplace_back();  // invalidates `next`
      node = created;
    } else {
      node = it->second;
    }
  }
  begins_[static_cast<uint8_t>(text[0])] = true;
  int32_t& slot = nodes_[static_cast<size_t>(node)].value;
  if (slot >= 0) return false;
  slot = value;
  return true;
}

std::optional<StringSet::Found> StringSet::FindNext(std::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!begins_[static_cast<uint8_t>(text[begin])]) continue;
    const Node* node = &nodes_[0];
    std::optional<Found> longest;
    for (size_t end = begin; end < text.size(); ++end) {
      const auto byte = static_cast<uint8_t>(text[end]);
      const auto it =
          std::ranges::lower_bound(node->next, byte, {}, &std::pair<uint8_t, int32_t>::first);
      if (it == node->next.end() || it->first != byte) break;
      node = &nodes_[static_cast<size_t>(it->second)];
      if (node->value >= 0) longest = Found{begin, end + 1, node->value};
    }
    if (longest.has_value()) return longest;
  }
  return std::nullopt;
}

absl::StatusOr<AddedVocabulary> AddedVocabulary::Read(const Component& list, const Bpe& model,
                                                      const Normalizer* normalizer) {
  AddedVocabulary added;
  if (list.IsNull()) return added;
  if (!list.value().is_array()) return list.Error("must be an array");
  for (size_t i = 0; i < list.value().size(); ++i) {
    const Component at(&list.value()[i], fmt::format("{}[{}]", list.path(), i));
    LEXICO_RETURN_IF_ERROR(added.Add(at, model, normalizer));
  }
  return added;
}

absl::Status AddedVocabulary::Add(const Component& at, const Bpe& model,
                                  const Normalizer* normalizer) {
  AddedToken token;
  LEXICO_ASSIGN_OR_RETURN(token.content, at.String("content"));
  LEXICO_ASSIGN_OR_RETURN(token.single_word, at.Bool("single_word"));
  LEXICO_ASSIGN_OR_RETURN(token.lstrip, at.Bool("lstrip"));
  LEXICO_ASSIGN_OR_RETURN(token.rstrip, at.Bool("rstrip"));
  LEXICO_ASSIGN_OR_RETURN(token.normalized, at.Bool("normalized"));
  LEXICO_ASSIGN_OR_RETURN(token.special, at.Bool("special"));
  if (token.content.empty()) return absl::OkStatus();
  if (token.content.size() > base::kTokenBytesMax) {
    return at.Error(
        fmt::format("a token of {} bytes, at most {}", token.content.size(), base::kTokenBytesMax));
  }
  if (ids_.contains(token.content)) {
    return at.Error(fmt::format("token '{}' is there twice", token.content));
  }
  const auto known = model.TokenToId(token.content);
  const int32_t id = known.has_value() ? *known : model.n_tokens() + n_new_++;
  if (id >= base::kVocabMax) return at.Error(fmt::format("id {} is too large", id));
  token.decoded = token.content;
  if (token.normalized && normalizer != nullptr) {
    NormalizedText text{token.content};
    LEXICO_RETURN_IF_ERROR(normalizer->Apply(&text));
    token.decoded = text.text;
  }
  const std::string& pattern = token.decoded;
  if (pattern.empty() || !(token.normalized ? normalized_ : raw_).Add(pattern, id)) {
    return at.Error(fmt::format("token '{}' normalizes to '{}', which is {}", token.content,
                                pattern, pattern.empty() ? "empty" : "another added token"));
  }
  ids_.emplace(token.content, id);
  if (token.special) special_.insert(token.content);
  id_bound_ = std::max(id_bound_, id + 1);
  tokens_.insert_or_assign(id, std::move(token));
  return absl::OkStatus();
}

std::vector<TextPart> AddedVocabulary::Split(const StringSet& set, std::string_view text,
                                             bool parse_special) const {
  std::vector<TextPart> parts;
  size_t covered = 0;
  if (!set.empty()) {
    size_t from = 0;
    while (const auto found = set.FindNext(text, from)) {
      from = found->end;
      const AddedToken& token = tokens_.at(found->value);
      if (token.special && !parse_special) continue;
      if (token.single_word &&
          (EndsWithWord(text.substr(0, found->begin)) || StartsWithWord(text.substr(found->end)))) {
        continue;
      }
      // White space that a token before took along is not taken twice.
      const size_t begin =
          token.lstrip ? std::max(SpaceBefore(text, found->begin), covered) : found->begin;
      const size_t end = token.rstrip ? SpaceBehind(text, found->end) : found->end;
      if (covered < begin) parts.push_back({covered, begin, -1});
      parts.push_back({begin, end, found->value});
      covered = end;
    }
  }
  if (covered != text.size()) parts.push_back({covered, text.size(), -1});
  return parts;
}

const AddedToken* AddedVocabulary::Find(int32_t id) const {
  const auto it = tokens_.find(id);
  return it == tokens_.end() ? nullptr : &it->second;
}

std::optional<int32_t> AddedVocabulary::TokenToId(std::string_view token) const {
  const auto it = ids_.find(token);
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

}  // namespace lexico::worker

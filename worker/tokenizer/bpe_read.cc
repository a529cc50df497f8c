// Reading the BPE model of a tokenizer.json; coding is in bpe.cc.
#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "worker/tokenizer/bpe.h"
#include "worker/tokenizer/unicode.h"

namespace lexico::worker {

absl::StatusOr<Bpe> Bpe::Read(const Component& component) {
  Bpe bpe;
  LEXICO_ASSIGN_OR_RETURN(const std::string type, component.String("type", "BPE"));
  if (type != "BPE") return component.Unsupported(type, "BPE");
  const nlohmann::json& dropout = component.Field("dropout").value();
  if (!dropout.is_null() && !(dropout.is_number() && dropout.get<double>() == 0)) {
    return component.Error("dropout must be null or 0: with it the same text has many codings");
  }
  if (!component.Field("unk_token").IsNull()) {
    LEXICO_ASSIGN_OR_RETURN(bpe.unk_token_, component.String("unk_token"));
  }
  LEXICO_ASSIGN_OR_RETURN(bpe.prefix_, component.String("continuing_subword_prefix", ""));
  LEXICO_ASSIGN_OR_RETURN(bpe.suffix_, component.String("end_of_word_suffix", ""));
  LEXICO_ASSIGN_OR_RETURN(bpe.fuse_unk_, component.Bool("fuse_unk", false));
  LEXICO_ASSIGN_OR_RETURN(bpe.byte_fallback_, component.Bool("byte_fallback", false));
  LEXICO_ASSIGN_OR_RETURN(bpe.ignore_merges_, component.Bool("ignore_merges", false));
  LEXICO_RETURN_IF_ERROR(bpe.ReadVocab(component));
  LEXICO_RETURN_IF_ERROR(bpe.ReadMerges(component));
  return bpe;
}

absl::Status Bpe::ReadVocab(const Component& component) {
  const Component vocab = component.Field("vocab");
  if (!vocab.value().is_object()) return vocab.Error("must be an object from token to id");
  ids_.reserve(vocab.value().size());
  for (const auto& [token, value] : vocab.value().items()) {
    if (token.size() > base::kTokenBytesMax) {
      return vocab.Error(
          fmt::format("a token of {} bytes, at most {}", token.size(), base::kTokenBytesMax));
    }
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= base::kVocabMax) {
      return vocab.Error(fmt::format("the id of '{}' must be a whole number from 0 to {}, it is {}",
                                     token, base::kVocabMax - 1, value.dump()));
    }
    const auto index = value.get<size_t>();
    if (index >= tokens_.size()) {
      tokens_.resize(index + 1);
      has_id_.resize(index + 1);
    }
    if (has_id_[index]) {
      return vocab.Error(
          fmt::format("id {} is given to both '{}' and '{}'", index, tokens_[index], token));
    }
    has_id_[index] = true;
    tokens_[index] = token;
    const auto id = static_cast<int32_t>(index);
    ids_.emplace(token, id);
    if (!token.empty() && Utf8Length(token[0]) == token.size()) {
      size_t offset = 0;
      char_ids_.emplace(NextChar(token, &offset), id);
    }
  }
  byte_ids_.reserve(256);
  for (int byte = 0; byte < 256; ++byte) {
    byte_ids_.push_back(TokenToId(fmt::format("<0x{:02X}>", byte)).value_or(-1));
  }
  return absl::OkStatus();
}

// Merges are pairs ["a", "b"], or in older files one string "a b".
absl::Status Bpe::ReadMerges(const Component& component) {
  const Component all = component.Field("merges");
  if (!all.value().is_array()) return all.Error("must be an array of pairs of tokens");
  merges_.reserve(all.value().size());
  int32_t rank = 0;
  for (const nlohmann::json& merge : all.value()) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      LEXICO_RETURN_IF_ERROR(AddMerge(all, merge[0].get_ref<const std::string&>(),
                                      merge[1].get_ref<const std::string&>(), rank++));
      continue;
    }
    if (!merge.is_string()) return all.Error(fmt::format("entry {} is no pair of tokens", rank));
    const std::string_view text = merge.get_ref<const std::string&>();
    if (text.starts_with("#version")) continue;
    const size_t space = text.find(' ');
    if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
      return all.Error(fmt::format("entry {} is not two tokens with one space between", rank));
    }
    LEXICO_RETURN_IF_ERROR(AddMerge(all, text.substr(0, space), text.substr(space + 1), rank++));
  }
  return absl::OkStatus();
}

void Bpe::AddCharPairs(std::string_view token) {
  char32_t previous = 0;
  for (size_t offset = 0; offset < token.size();) {
    const bool is_first = offset == 0;
    const char32_t c = NextChar(token, &offset);
    if (!is_first) char_pairs_.insert(static_cast<uint64_t>(previous) << 32 | c);
    previous = c;
  }
}

absl::Status Bpe::AddMerge(const Component& at, std::string_view left, std::string_view right,
                           int32_t rank) {
  const auto missing = [&](std::string_view token) {
    return at.Error(fmt::format("entry {}: token '{}' is not in the vocabulary", rank, token));
  };
  const auto left_id = TokenToId(left);
  if (!left_id.has_value()) return missing(left);
  const auto right_id = TokenToId(right);
  if (!right_id.has_value()) return missing(right);
  if (right.size() < prefix_.size()) {
    return at.Error(fmt::format(
        "entry {}: token '{}' is shorter than the continuing_subword_prefix", rank, right));
  }
  const std::string merged = std::string(left) + std::string(right.substr(prefix_.size()));
  const auto id = TokenToId(merged);
  if (!id.has_value()) return missing(merged);
  AddCharPairs(merged);
  merges_[PairKey(*left_id, *right_id)] = {rank, *id};
  return absl::OkStatus();
}

}  // namespace lexico::worker

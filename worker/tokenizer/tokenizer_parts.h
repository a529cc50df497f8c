// What a Tokenizer is made of. For the sources of this folder only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "proto/base/hash.h"
#include "worker/tokenizer/added_vocabulary.h"
#include "worker/tokenizer/bpe.h"
#include "worker/tokenizer/decoder.h"
#include "worker/tokenizer/normalizer.h"
#include "worker/tokenizer/post_processor.h"
#include "worker/tokenizer/pre_tokenizer.h"
#include "worker/tokenizer/tokenizer.h"

namespace lexico::worker {

struct Tokenizer::Parts {
  std::unique_ptr<const Normalizer> normalizer;       // may be null
  std::unique_ptr<const PreTokenizer> pre_tokenizer;  // may be null
  Bpe model;
  AddedVocabulary added;
  PostProcessor post_processor;
  Decoder decoder;
  std::vector<bool> special_ids;  // [vocab_size]
  base::Fingerprint fingerprint;

  // The token that Decode sees; nullopt when there is none or it is to be skipped.
  std::optional<std::string_view> TokenToDecode(int32_t id, bool skip_special) const {
    const AddedToken* token = added.Find(id);
    if (token == nullptr && !model.HasId(id)) return std::nullopt;
    const std::string& text = token != nullptr ? token->decoded : model.IdToToken(id);
    if (skip_special && added.IsSpecial(text)) return std::nullopt;
    return text;
  }
};

}  // namespace lexico::worker

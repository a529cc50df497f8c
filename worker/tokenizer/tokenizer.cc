#include "worker/tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "proto/base/limits.h"
#include "proto/base/read_file.h"
#include "proto/base/status.h"
#include "worker/tokenizer/tokenizer_parts.h"
#include "worker/tokenizer/unicode.h"

namespace lexico::worker {
namespace {

// Appends the ids of one part of a normalized text that holds no added token.
absl::Status EncodePart(const PreTokenizer* pre_tokenizer, const Bpe& model, std::string text,
                        bool at_start, const std::vector<bool>* forbidden, WordCache* cache,
                        std::vector<int32_t>* ids) {
  SplitText split{std::move(text), {}};
  if (!split.text.empty()) split.words.push_back({0, split.text.size(), at_start});
  if (pre_tokenizer != nullptr) LEXICO_RETURN_IF_ERROR(pre_tokenizer->Apply(&split));
  for (const SplitText::Word& word : split.words) {
    LEXICO_RETURN_IF_ERROR(model.EncodeWord(split.View(word), forbidden, cache, ids));
  }
  return absl::OkStatus();
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::Load(const std::string& path) {
  LEXICO_ASSIGN_OR_RETURN(const std::string json,
                          base::ReadTextFile(path, base::kJsonFileBytesMax));
  auto tokenizer = FromJson(json);
  if (!tokenizer.ok()) return base::Annotate(tokenizer.status(), path);
  return tokenizer;
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::FromJson(std::string_view json) {
  const nlohmann::json root = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) {
    return absl::InvalidArgumentError("not a tokenizer.json: the text is no JSON object");
  }
  const Component file(&root, "");
  auto parts = std::make_unique<Parts>();
  LEXICO_ASSIGN_OR_RETURN(const std::string version, file.String("version", "1.0"));
  if (version != "1.0") {
    return absl::InvalidArgumentError(fmt::format("version is '{}', only '1.0' is known", version));
  }
  LEXICO_ASSIGN_OR_RETURN(parts->normalizer, ReadNormalizer(file.Field("normalizer")));
  LEXICO_ASSIGN_OR_RETURN(parts->pre_tokenizer, ReadPreTokenizer(file.Field("pre_tokenizer")));
  LEXICO_ASSIGN_OR_RETURN(parts->model, Bpe::Read(file.Field("model")));
  LEXICO_ASSIGN_OR_RETURN(
      parts->added,
      AddedVocabulary::Read(file.Field("added_tokens"), parts->model, parts->normalizer.get()));
  LEXICO_ASSIGN_OR_RETURN(parts->post_processor, ReadPostProcessor(file.Field("post_processor")));
  LEXICO_ASSIGN_OR_RETURN(parts->decoder, Decoder::Read(file.Field("decoder")));
  parts->special_ids.resize(
      static_cast<size_t>(std::max(parts->model.id_bound(), parts->added.id_bound())));
  for (const std::string& token : parts->added.special()) {
    parts->special_ids[static_cast<size_t>(*parts->added.TokenToId(token))] = true;
  }
  parts->fingerprint = base::FingerprintBuilder().Add(json).Finish();
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(parts)));
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view utf8,
                                                       EncodeOptions options) const {
  LEXICO_RETURN_IF_ERROR(CheckUtf8(utf8));
  std::vector<int32_t> ids;
  ids.reserve(utf8.size() / 4 + 8);
  if (options.add_special_tokens) ids = parts_->post_processor.before;
  const std::vector<bool>* forbidden = options.parse_special ? nullptr : &parts_->special_ids;
  WordCache cache;
  for (const TextPart& raw : parts_->added.SplitRaw(utf8, options.parse_special)) {
    if (raw.id >= 0) {
      ids.push_back(raw.id);
      continue;
    }
    NormalizedText text{std::string(utf8.substr(raw.begin, raw.end - raw.begin))};
    if (parts_->normalizer != nullptr) LEXICO_RETURN_IF_ERROR(parts_->normalizer->Apply(&text));
    for (const TextPart& part : parts_->added.SplitNormalized(text.text, options.parse_special)) {
      if (part.id >= 0) {
        ids.push_back(part.id);
        continue;
      }
      const bool at_start = raw.begin == 0 && part.begin == 0 && !text.front_removed;
      LEXICO_RETURN_IF_ERROR(EncodePart(parts_->pre_tokenizer.get(), parts_->model,
                                        text.text.substr(part.begin, part.end - part.begin),
                                        at_start, forbidden, &cache, &ids));
    }
  }
  if (options.add_special_tokens) {
    const auto& after = parts_->post_processor.after;
    ids.insert(ids.end(), after.begin(), after.end());
  }
  return ids;
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  DecoderStream stream(parts_->decoder);
  for (const int32_t id : ids) {
    if (const auto token = parts_->TokenToDecode(id, skip_special)) stream.PushToken(*token);
  }
  stream.Finish();
  return stream.TakeText();
}

absl::Status Tokenizer::CheckIds(std::span<const int32_t> ids) const {
  const int n = vocab_size();
  const auto bad = std::ranges::find_if(ids, [n](int32_t id) { return id < 0 || id >= n; });
  if (bad == ids.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("token id {} is outside the vocabulary, 0 to {}", *bad, n - 1));
}

std::optional<int32_t> Tokenizer::TokenToId(std::string_view token) const {
  const auto id = parts_->added.TokenToId(token);
  return id.has_value() ? id : parts_->model.TokenToId(token);
}

std::string Tokenizer::IdToToken(int32_t id) const {
  const AddedToken* token = parts_->added.Find(id);
  return token != nullptr ? token->content : parts_->model.IdToToken(id);
}

int Tokenizer::vocab_size() const { return static_cast<int>(parts_->special_ids.size()); }

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocab_size() && parts_->special_ids[static_cast<size_t>(id)];
}

base::Fingerprint Tokenizer::fingerprint() const { return parts_->fingerprint; }

}  // namespace lexico::worker

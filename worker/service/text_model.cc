#include "worker/service/text_model.h"

#include <fmt/format.h>

#include <algorithm>

#include "proto/base/status.h"

namespace lexico::worker {
namespace {

constexpr EncodeOptions kOurText = {.add_special_tokens = false, .parse_special = true};

absl::StatusOr<std::vector<int32_t>> BeginIds(const Tokenizer& tokenizer,
                                              const ModelConfig& config) {
  // What the tokenizer itself puts in front of a text; some leave it to the caller.
  LEXICO_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                          tokenizer.Encode("", EncodeOptions{.add_special_tokens = true}));
  if (ids.empty() && config.bos_id.has_value()) ids.push_back(*config.bos_id);
  return ids;
}

}  // namespace

absl::StatusOr<TextModel> MakeTextModel(std::shared_ptr<const Tokenizer> tokenizer,
                                        std::shared_ptr<const ChatTemplate> chat_template,
                                        const ModelConfig& config) {
  if (tokenizer->vocab_size() > config.vocab_size) {
    return absl::InvalidArgumentError(
        fmt::format("tokenizer.json has ids up to {}, config.json says vocab_size {}; they belong "
                    "to different models",
                    tokenizer->vocab_size() - 1, config.vocab_size));
  }
  TextModel model;
  model.end_ids = config.eos_ids;
  LEXICO_ASSIGN_OR_RETURN(model.begin_ids, BeginIds(*tokenizer, config));
  if (chat_template == nullptr) {
    model.no_turns_reason = "the model has no chat template";
  } else if (!chat_template->turn_pieces().ok()) {
    model.no_turns_reason = std::string(chat_template->turn_pieces().status().message());
  } else {
    model.turns = *chat_template->turn_pieces();
    LEXICO_ASSIGN_OR_RETURN(model.closing_otherwise,
                            tokenizer->Encode(model.turns->assistant_end, kOurText));
    model.closing_after_end = model.closing_otherwise;
    if (!model.closing_after_end.empty() &&
        std::count(model.end_ids.begin(), model.end_ids.end(), model.closing_after_end[0]) > 0) {
      model.closing_after_end.erase(model.closing_after_end.begin());
    }
  }
  model.tokenizer = std::move(tokenizer);
  return model;
}

absl::StatusOr<TextModel> LoadTextModel(const std::string& model_dir, const ModelConfig& config) {
  LEXICO_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::Load(model_dir + "/tokenizer.json"));
  auto chat_template = ChatTemplate::Load(model_dir + "/tokenizer_config.json");
  if (!chat_template.ok() && !absl::IsNotFound(chat_template.status())) {
    return chat_template.status();
  }
  return MakeTextModel(std::move(tokenizer), chat_template.ok() ? *chat_template : nullptr, config);
}

}  // namespace lexico::worker

// The text side of a model: tokenizer, turns of a chat, and the ids that begin and end things.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/config.h"
#include "worker/tokenizer/chat_template.h"
#include "worker/tokenizer/tokenizer.h"

namespace lexico::worker {

// Immutable after MakeTextModel; any thread may read.
struct TextModel {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::optional<TurnPieces> turns;  // absent: the model serves RAW only
  std::string no_turns_reason;      // why, then
  std::vector<int32_t> begin_ids;   // of a RAW text: the begin-of-text token, or nothing
  std::vector<int32_t> end_ids;     // any of them ends an answer
  // What closes an answer in a chat: after an end token of the model, and after anything else.
  std::vector<int32_t> closing_after_end;
  std::vector<int32_t> closing_otherwise;
};

// Reads tokenizer.json and, where there is one, the chat template of a model folder. A missing
// template, or one that is not written in turns, leaves RAW. InvalidArgument when the tokenizer has
// ids outside the model's vocabulary, or the template does not parse.
absl::StatusOr<TextModel> LoadTextModel(const std::string& model_dir, const ModelConfig& config);

// The same from parts. `chat_template` may be null.
absl::StatusOr<TextModel> MakeTextModel(std::shared_ptr<const Tokenizer> tokenizer,
                                        std::shared_ptr<const ChatTemplate> chat_template,
                                        const ModelConfig& config);

}  // namespace lexico::worker

#include "worker/service/conversation.h"

#include <fmt/format.h>

#include "absl/strings/ascii.h"
#include "proto/base/bytes.h"
#include "proto/base/status.h"
#include "proto/base/utf8.h"

namespace lexico::worker {
namespace {

// On disk in manifests. Version 1 had a last answer without position and seed, named otherwise: it
// is read as if there were none.
constexpr uint8_t kVersion = 2;
constexpr std::string_view kSeparator = "\n\n";
// Longer runs of punctuation end no sentence; they are encoded as they come.
constexpr size_t kTailBytesMax = 64;

constexpr EncodeOptions kOurText = {.add_special_tokens = false, .parse_special = true};
constexpr EncodeOptions kUserText = {.add_special_tokens = false, .parse_special = false};

std::string_view Trim(std::string_view text) {
  const auto is_space = [](char c) { return absl::ascii_isspace(static_cast<unsigned char>(c)); };
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

// ASCII at the end that is no letter or digit.
size_t TailBytes(std::string_view text) {
  size_t n = 0;
  while (n < text.size() && n < kTailBytesMax) {
    const auto c = static_cast<unsigned char>(text[text.size() - 1 - n]);
    if (c >= 0x80 || absl::ascii_isalnum(c)) break;
    ++n;
  }
  return n;
}

absl::Status AddIds(const TextModel& model, std::string_view text, const EncodeOptions& options,
                    std::vector<int32_t>* ids) {
  LEXICO_ASSIGN_OR_RETURN(const std::vector<int32_t> more, model.tokenizer->Encode(text, options));
  ids->insert(ids->end(), more.begin(), more.end());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Conversation> Conversation::Start(const TextModel& model, v1::TextFormat format,
                                                 std::string_view system_prompt) {
  Conversation conversation;
  if (format == v1::TEXT_FORMAT_UNSPECIFIED) {
    format = model.turns.has_value() ? v1::TEXT_FORMAT_CHAT : v1::TEXT_FORMAT_RAW;
  }
  if (format == v1::TEXT_FORMAT_CHAT && !model.turns.has_value()) {
    return absl::InvalidArgumentError(
        fmt::format("format CHAT is not possible: {}; use RAW", model.no_turns_reason));
  }
  if (!system_prompt.empty()) {
    LEXICO_RETURN_IF_ERROR(base::Annotate(base::CheckUtf8(system_prompt), "system_prompt"));
    if (format != v1::TEXT_FORMAT_CHAT) {
      return absl::InvalidArgumentError("a system_prompt needs format CHAT; append it as text");
    }
    if (!model.turns->system.has_value()) {
      return absl::InvalidArgumentError(
          "the model's chat template takes no system message; put it into the first prompt");
    }
    conversation.system_prompt_ = system_prompt;
  }
  conversation.format_ = format;
  return conversation;
}

absl::Status Conversation::AddUserText(const TextModel& model, std::string_view text,
                                       bool keep_tail, Step* step) const {
  std::vector<int32_t>* ids = &step->ids;
  Conversation& after = step->after;
  const TurnPieces& turns = *model.turns;
  std::string whole;
  if (turn_ == Turn::kUser) {
    whole = tail_;
    if (!text.empty()) whole += kSeparator;
  } else if (turn_ == Turn::kAnswered) {
    LEXICO_RETURN_IF_ERROR(AddIds(model, turns.user_begin, kOurText, ids));
  } else if (!system_prompt_.empty()) {
    LEXICO_RETURN_IF_ERROR(AddIds(model, turns.system->begin, kOurText, ids));
    LEXICO_RETURN_IF_ERROR(AddIds(model, system_prompt_, kUserText, ids));
    LEXICO_RETURN_IF_ERROR(AddIds(model, turns.system->end, kOurText, ids));
    after.system_prompt_.clear();
  } else {
    LEXICO_RETURN_IF_ERROR(AddIds(model, turns.begin, kOurText, ids));
  }
  whole += text;
  const size_t tail = keep_tail ? TailBytes(whole) : 0;
  after.tail_ = whole.substr(whole.size() - tail);
  whole.resize(whole.size() - tail);
  return AddIds(model, whole, kUserText, ids);
}

absl::StatusOr<Conversation::Step> Conversation::Append(const TextModel& model,
                                                        std::string_view text) const {
  Step step{.ids = {}, .after = *this};
  step.after.turn_ = Turn::kUser;
  step.after.last_answer_.reset();
  if (format_ == v1::TEXT_FORMAT_CHAT && model.turns->trims_content) text = Trim(text);
  if (text.empty()) {
    return absl::InvalidArgumentError("the document is empty; nothing to append");
  }
  if (format_ == v1::TEXT_FORMAT_CHAT) {
    LEXICO_RETURN_IF_ERROR(AddUserText(model, text, /*keep_tail=*/true, &step));
    return step;
  }
  if (turn_ == Turn::kNone) step.ids = model.begin_ids;
  LEXICO_RETURN_IF_ERROR(AddIds(model, text, kUserText, &step.ids));
  return step;
}

absl::StatusOr<Conversation::Step> Conversation::Prompt(const TextModel& model,
                                                        std::string_view text) const {
  Step step{.ids = {}, .after = *this};
  step.after.turn_ = Turn::kAnswered;
  step.after.last_answer_.reset();
  if (format_ != v1::TEXT_FORMAT_CHAT) {
    if (turn_ == Turn::kNone) step.ids = model.begin_ids;
    LEXICO_RETURN_IF_ERROR(AddIds(model, text, kUserText, &step.ids));
    if (step.ids.empty() && turn_ == Turn::kNone) {
      return absl::InvalidArgumentError(
          "the session and the prompt are empty and the model has no begin-of-text token; give "
          "some text");
    }
    return step;
  }
  if (model.turns->trims_content) text = Trim(text);
  if (text.empty() && turn_ != Turn::kUser) {
    return absl::InvalidArgumentError(
        "the prompt is empty and no appended text waits for an answer; ask something");
  }
  LEXICO_RETURN_IF_ERROR(AddUserText(model, text, /*keep_tail=*/false, &step));
  LEXICO_RETURN_IF_ERROR(AddIds(model, model.turns->user_end, kOurText, &step.ids));
  return step;
}

std::string Conversation::Serialize() const {
  base::ByteWriter writer;
  writer.Write<uint8_t>(kVersion);
  writer.Write<uint8_t>(static_cast<uint8_t>(format_));
  writer.Write<uint8_t>(static_cast<uint8_t>(turn_));
  writer.WriteString(system_prompt_);
  writer.WriteString(tail_);
  writer.Write<uint8_t>(last_answer_.has_value() ? 1 : 0);
  if (last_answer_.has_value()) {
    writer.WriteBytes(last_answer_->call.bytes);
    writer.Write<int64_t>(last_answer_->position);
    writer.Write<uint64_t>(last_answer_->seed);
    writer.Write<int64_t>(last_answer_->first_token);
    writer.Write<int64_t>(last_answer_->n_tokens);
    writer.Write<uint8_t>(static_cast<uint8_t>(last_answer_->reason));
    writer.WriteString(last_answer_->stop_string);
  }
  return writer.Take();
}

absl::StatusOr<Conversation> Conversation::Parse(std::string_view bytes) {
  base::ByteReader reader(base::AsBytes(bytes));
  const auto version = reader.Read<uint8_t>();
  Conversation conversation;
  const auto format = reader.Read<uint8_t>();
  const auto turn = reader.Read<uint8_t>();
  conversation.format_ = static_cast<v1::TextFormat>(format);
  conversation.turn_ = static_cast<Turn>(turn);
  conversation.system_prompt_ = reader.ReadString();
  conversation.tail_ = reader.ReadString();
  const auto has_answer = reader.Read<uint8_t>();
  if (has_answer == 1) {
    LastAnswer answer;
    const auto fingerprint = reader.ReadBytes(answer.call.bytes.size());
    std::copy(fingerprint.begin(), fingerprint.end(), answer.call.bytes.begin());
    if (version != 1) {
      answer.position = reader.Read<int64_t>();
      answer.seed = reader.Read<uint64_t>();
    }
    answer.first_token = reader.Read<int64_t>();
    answer.n_tokens = reader.Read<int64_t>();
    answer.reason = static_cast<v1::FinishReason>(reader.Read<uint8_t>());
    answer.stop_string = reader.ReadString();
    if (version != 1) conversation.last_answer_ = std::move(answer);
  }
  const bool is_format = format == v1::TEXT_FORMAT_CHAT || format == v1::TEXT_FORMAT_RAW;
  if (!reader.ok() || reader.remaining() != 0 || version < 1 || version > kVersion || !is_format ||
      turn > static_cast<uint8_t>(Turn::kAnswered) || has_answer > 1) {
    return absl::DataLossError(fmt::format(
        "the conversation state of a manifest ({} bytes, version {}) cannot be read; this worker "
        "knows versions 1 to {}",
        bytes.size(), version, kVersion));
  }
  return conversation;
}

}  // namespace lexico::worker

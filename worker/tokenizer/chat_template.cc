#include "worker/tokenizer/chat_template.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "proto/base/limits.h"
#include "proto/base/read_file.h"
#include "proto/base/status.h"
#include "worker/tokenizer/jinja.h"
#include "worker/tokenizer/turn_pieces.h"
#include "worker/tokenizer/unicode.h"

namespace lexico::worker {
namespace {

constexpr const char* kSpecialTokens[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                          "pad_token", "cls_token", "mask_token"};

// "<s>", or {"content": "<s>", ...}
ChatTemplate::Variables ReadSpecialTokens(const nlohmann::json& config) {
  ChatTemplate::Variables variables;
  for (const char* name : kSpecialTokens) {
    const auto it = config.find(name);
    if (it == config.end()) continue;
    const nlohmann::json& token =
        it->is_object() && it->contains("content") ? (*it)["content"] : *it;
    if (token.is_string()) variables.emplace(name, token.get<std::string>());
  }
  return variables;
}

// A string, or [{"name": "default", "template": "..."}, ...].
absl::StatusOr<std::string> ReadSource(const nlohmann::json& config) {
  const auto it = config.find("chat_template");
  if (it == config.end() || it->is_null()) {
    return absl::NotFoundError("the model has no chat template");
  }
  if (it->is_string()) return it->get<std::string>();
  if (it->is_array()) {
    for (const nlohmann::json& entry : *it) {
      const bool is_default =
          entry.is_object() && entry.value("name", nlohmann::json()) == "default";
      if (is_default && entry.contains("template") && entry["template"].is_string()) {
        return entry["template"].get<std::string>();
      }
    }
    return absl::NotFoundError("no chat template is named 'default'");
  }
  return absl::InvalidArgumentError(
      fmt::format("chat_template must be a string or a list, it is {}", it->type_name()));
}

absl::StatusOr<jinja::Value> MessagesValue(std::span<const ChatMessage> messages) {
  jinja::List list;
  for (const ChatMessage& message : messages) {
    LEXICO_RETURN_IF_ERROR(CheckUtf8(message.role));
    LEXICO_RETURN_IF_ERROR(CheckUtf8(message.content));
    jinja::Dict fields;
    fields.Set("role", jinja::Value(message.role));
    fields.Set("content", jinja::Value(message.content));
    LEXICO_ASSIGN_OR_RETURN(jinja::Value value, jinja::Value::MakeDict(std::move(fields)));
    list.push_back(std::move(value));
  }
  return jinja::Value::MakeList(std::move(list));
}

absl::StatusOr<std::string> RenderTemplate(const jinja::Template& parsed,
                                           const ChatTemplate::Variables& variables,
                                           std::span<const ChatMessage> messages,
                                           bool add_generation_prompt,
                                           const ChatTemplate::Variables& extra) {
  jinja::Dict dict;
  for (const auto& [name, text] : variables) dict.Set(name, jinja::Value(text));
  dict.Set("tools", jinja::Value(jinja::None{}));
  dict.Set("documents", jinja::Value(jinja::None{}));
  LEXICO_ASSIGN_OR_RETURN(jinja::Value list, MessagesValue(messages));
  dict.Set("messages", std::move(list));
  dict.Set("add_generation_prompt", jinja::Value(add_generation_prompt));
  for (const auto& [name, text] : extra) {
    LEXICO_RETURN_IF_ERROR(CheckUtf8(text));
    dict.Set(name, jinja::Value(text));
  }
  return parsed.Render(dict);
}

}  // namespace

struct ChatTemplate::Parts {
  jinja::Template parsed;
  Variables variables;
  absl::StatusOr<TurnPieces> turn_pieces;
};

ChatTemplate::ChatTemplate(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}
ChatTemplate::~ChatTemplate() = default;

absl::StatusOr<std::shared_ptr<const ChatTemplate>> ChatTemplate::Load(
    const std::string& tokenizer_config_path) {
  LEXICO_ASSIGN_OR_RETURN(const std::string text,
                          base::ReadTextFile(tokenizer_config_path, base::kJsonFileBytesMax));
  const auto config = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    return absl::InvalidArgumentError(fmt::format("{}: no JSON object", tokenizer_config_path));
  }
  const size_t slash = tokenizer_config_path.rfind('/');
  const std::string folder =
      slash == std::string::npos ? "" : tokenizer_config_path.substr(0, slash + 1);
  const std::string jinja_path = folder + "chat_template.jinja";
  auto source = base::ReadTextFile(jinja_path, base::kTemplateBytesMax);
  std::string origin = jinja_path;
  if (absl::IsNotFound(source.status())) {
    source = ReadSource(config);
    origin = tokenizer_config_path;
  }
  if (!source.ok()) return base::Annotate(source.status(), origin);
  auto result = FromSource(*source, ReadSpecialTokens(config));
  if (!result.ok()) return base::Annotate(result.status(), origin);
  return result;
}

absl::StatusOr<std::shared_ptr<const ChatTemplate>> ChatTemplate::FromSource(
    std::string_view source, Variables variables) {
  LEXICO_ASSIGN_OR_RETURN(jinja::Template parsed, jinja::Template::Parse(source));
  auto turn_pieces = FindTurnPieces([&](std::span<const ChatMessage> messages, bool generation) {
    return RenderTemplate(parsed, variables, messages, generation, {});
  });
  auto parts = std::make_unique<const Parts>(
      Parts{std::move(parsed), std::move(variables), std::move(turn_pieces)});
  return std::shared_ptr<const ChatTemplate>(new ChatTemplate(std::move(parts)));
}

absl::StatusOr<std::string> ChatTemplate::Render(std::span<const ChatMessage> messages,
                                                 bool add_generation_prompt,
                                                 const Variables& extra) const {
  return RenderTemplate(parts_->parsed, parts_->variables, messages, add_generation_prompt, extra);
}

const absl::StatusOr<TurnPieces>& ChatTemplate::turn_pieces() const { return parts_->turn_pieces; }

}  // namespace lexico::worker

// The chat template of a model: a Jinja program that writes a conversation as one text.
//
// Rendered as Hugging Face transformers does (apply_chat_template with tokenize=False): blocks
// trimmed, `messages`, `add_generation_prompt`, `tools` (none), `documents` (none) and the special
// tokens of tokenizer_config.json as variables, `raise_exception` and `strftime_now` as functions.
// The interpreter is our own subset of Jinja, see jinja.h and docs/adr/0003-chat-templates.md.
//
// Thread safety: immutable after load; all methods may be called from any thread.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace lexico::worker {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"; the template decides which it takes
  std::string content;
};

// The text around the turns of a conversation, so that a session can be extended turn by turn:
//
//   begin  USER  user_end  ANSWER  assistant_end  user_begin  USER  user_end  ANSWER ...
//
// or, with a system message, system_begin SYSTEM system_end in the place of `begin`. Encode pieces
// with parse_special = true and what users wrote with parse_special = false, both without
// add_special_tokens (the begin-of-text token, if any, is part of the first piece).
//
// An answer that was not generated (an example, an imported one) is preceded by `answer_begin`.
// An answer that the model ended itself already holds the first token of `assistant_end`.
struct TurnPieces {
  std::string begin;         // begin-of-text and everything before the first user's text
  std::string user_end;      // between a user's text and the answer: "<|end|>\n<|assistant|>\n"
  std::string answer_begin;  // white space that a model writes before its answer itself; usually ""
  std::string assistant_end;  // after an answer: "<|end|>\n"
  std::string user_begin;     // before the text of every later user turn: "<|user|>\n"

  // The template strips white space around the text of messages; whoever builds turns from pieces
  // has to do the same.
  bool trims_content = false;

  // Absent when the template refuses system messages or does not write them in front.
  struct System {
    std::string begin;  // everything before the system message's text
    std::string end;    // between it and the first user's text
  };
  std::optional<System> system;
};

class ChatTemplate {
 public:
  using Variables = std::map<std::string, std::string, std::less<>>;

  // Reads tokenizer_config.json: `chat_template` as a string, or as a list of {name, template} of
  // which "default" is taken; a file chat_template.jinja beside it goes first, as in transformers.
  // The special tokens (bos_token, eos_token, ...) become variables. NotFound: no such file, or the
  // model has no chat template. InvalidArgument: a template that does not parse (with its line).
  static absl::StatusOr<std::shared_ptr<const ChatTemplate>> Load(
      const std::string& tokenizer_config_path);

  // From the template's source and the variables every rendering sees.
  static absl::StatusOr<std::shared_ptr<const ChatTemplate>> FromSource(std::string_view source,
                                                                        Variables variables);

  ~ChatTemplate();
  ChatTemplate(const ChatTemplate&) = delete;
  ChatTemplate& operator=(const ChatTemplate&) = delete;

  // The conversation as text. `extra` overrides the loaded variables. InvalidArgument: the template
  // called raise_exception (its message is passed on) or does something undefined, with the line.
  // ResourceExhausted: over the limits of limits.h on steps or output.
  absl::StatusOr<std::string> Render(std::span<const ChatMessage> messages,
                                     bool add_generation_prompt, const Variables& extra = {}) const;

  // Found once at load by rendering conversations of sentinels. FailedPrecondition when the
  // template does not write conversations in pieces that stay as they are when turns are added.
  const absl::StatusOr<TurnPieces>& turn_pieces() const;

 private:
  struct Parts;
  explicit ChatTemplate(std::unique_ptr<const Parts> parts);

  std::unique_ptr<const Parts> parts_;
};

}  // namespace lexico::worker

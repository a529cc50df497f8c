// A session as text: which turn is open, and how the next text becomes ids.
//
//   CHAT   begin USER user_end ANSWER assistant_end user_begin USER user_end ANSWER ...
//          Texts that are appended to one user turn (documents, then the prompt) are separated by
//          an empty line. The embedded model was trained on "document\n\nquestion".
//   RAW    begin-of-text, then everything as it stands
//
// What users write never becomes a special token. Punctuation at the end of an appended text is
// kept back until the next text is known, because tokenizers merge it with line breaks that follow:
// the ids are then those of the whole turn encoded at once, for tokenizers that split between
// letters and other characters.
//
// A value: steps return the state after them, and the caller adopts it when the engine has taken
// the ids. It travels in the manifest (store::Manifest::conversation).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "lexico/v1/common.pb.h"
#include "proto/base/hash.h"
#include "worker/service/text_model.h"

namespace lexico::worker {

// The newest completed answer. A coordinator that lost our reply runs the call again with the ids
// that it has seen, if any; this tells that run from a new question.
struct LastAnswer {
  base::Fingerprint call;   // of RunRequest.call_id
  int64_t position = 0;     // tokens in the log before the call
  uint64_t seed = 0;        // that it was sampled with
  int64_t first_token = 0;  // its place in the token log
  int64_t n_tokens = 0;
  v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
  std::string stop_string;

  bool operator==(const LastAnswer&) const = default;
};

class Conversation {
 public:
  struct Step;

  // TEXT_FORMAT_UNSPECIFIED becomes CHAT where the model has turns. InvalidArgument: CHAT without a
  // usable template, a system prompt with RAW or with a template that has no place for one, or one
  // that is not UTF-8.
  static absl::StatusOr<Conversation> Start(const TextModel& model, v1::TextFormat format,
                                            std::string_view system_prompt);
  // DataLoss when the bytes are not of Serialize.
  static absl::StatusOr<Conversation> Parse(std::string_view bytes);
  std::string Serialize() const;

  v1::TextFormat format() const { return format_; }
  const std::optional<LastAnswer>& last_answer() const { return last_answer_; }
  void set_last_answer(std::optional<LastAnswer> answer) { last_answer_ = std::move(answer); }

  // A document at the end. InvalidArgument: empty. REQUIRES: `text` is UTF-8.
  absl::StatusOr<Step> Append(const TextModel& model, std::string_view text) const;
  // A prompt, which may be empty where there is something to go on from, and what lets the model
  // answer. InvalidArgument otherwise.
  absl::StatusOr<Step> Prompt(const TextModel& model, std::string_view text) const;

  bool operator==(const Conversation&) const = default;

 private:
  // On disk in manifests: do not change the values.
  enum class Turn : uint8_t {
    kNone = 0,      // nothing in the session
    kUser = 1,      // a user's turn is open and has text
    kAnswered = 2,  // an answer was closed
  };

  absl::Status AddUserText(const TextModel& model, std::string_view text, bool keep_tail,
                           Step* step) const;

  v1::TextFormat format_ = v1::TEXT_FORMAT_RAW;
  Turn turn_ = Turn::kNone;
  std::string system_prompt_;  // until it is in the session
  std::string tail_;           // text of the open turn that has no ids yet
  std::optional<LastAnswer> last_answer_;
};

struct Conversation::Step {
  std::vector<int32_t> ids;
  // Append: after the ids. Prompt: after the answer too, closed as TextModel says.
  Conversation after;
};

}  // namespace lexico::worker

#include "worker/tokenizer/turn_pieces.h"

#include <fmt/format.h>

#include <string_view>
#include <utility>
#include <vector>

#include "proto/base/status.h"

namespace lexico::worker {
namespace {

// Nothing a template would write by itself, nor change.
constexpr std::string_view kSentinels[] = {"Lexico0User7Q", "Lexico1Answer7Q", "Lexico2User7Q",
                                           "Lexico3Answer7Q", "Lexico4User7Q"};
constexpr std::string_view kSystemSentinel = "Lexico5System7Q";

// The text before, between and behind the sentinels, each of which must be there once, in order.
absl::StatusOr<std::vector<std::string>> CutAt(std::string_view text,
                                               std::span<const std::string_view> sentinels) {
  std::vector<std::string> parts;
  for (const std::string_view sentinel : sentinels) {
    const size_t at = text.find(sentinel);
    if (at == std::string_view::npos) {
      return absl::FailedPreconditionError(
          "the chat template does not write the messages one after the other as they are");
    }
    parts.emplace_back(text.substr(0, at));
    text.remove_prefix(at + sentinel.size());
    if (text.find(sentinel) != std::string_view::npos) {
      return absl::FailedPreconditionError("the chat template writes a message twice");
    }
  }
  parts.emplace_back(text);
  return parts;
}

// user, assistant, user, ... with `n` messages.
std::vector<ChatMessage> Conversation(size_t n) {
  std::vector<ChatMessage> messages;
  for (size_t i = 0; i < n; ++i) {
    messages.push_back({i % 2 == 0 ? "user" : "assistant", std::string(kSentinels[i])});
  }
  return messages;
}

absl::StatusOr<std::vector<std::string>> RenderAndCut(const RenderFunction& render, size_t n,
                                                      bool add_generation_prompt) {
  LEXICO_ASSIGN_OR_RETURN(const std::string text, render(Conversation(n), add_generation_prompt));
  return CutAt(text, std::span(kSentinels).first(n));
}

absl::Status Unstable(std::string_view what, const std::string& once, const std::string& again) {
  return absl::FailedPreconditionError(fmt::format(
      "the chat template writes the {} as '{}', but as '{}' when turns follow; sessions "
      "need it to stay as it was",
      what, once, again));
}

// Only a bonus: a template without system messages has none.
std::optional<TurnPieces::System> FindSystem(const RenderFunction& render,
                                             const TurnPieces& pieces) {
  std::vector<ChatMessage> messages = {{"system", std::string(kSystemSentinel)}};
  messages.push_back({"user", std::string(kSentinels[0])});
  const auto text = render(messages, /*add_generation_prompt=*/true);
  if (!text.ok()) return std::nullopt;
  const std::string_view sentinels[] = {kSystemSentinel, kSentinels[0]};
  const auto parts = CutAt(*text, sentinels);
  if (!parts.ok() || (*parts)[2] != pieces.user_end) return std::nullopt;
  return TurnPieces::System{(*parts)[0], (*parts)[1]};
}

absl::StatusOr<bool> FindTrimming(const RenderFunction& render) {
  const ChatMessage padded{"user", fmt::format(" {}\n", kSentinels[0])};
  LEXICO_ASSIGN_OR_RETURN(const std::string text, render(std::span(&padded, 1), false));
  return text.find(padded.content) == std::string::npos;
}

}  // namespace

absl::StatusOr<TurnPieces> FindTurnPieces(const RenderFunction& render) {
  TurnPieces pieces;
  // begin U user_end
  LEXICO_ASSIGN_OR_RETURN(const auto one, RenderAndCut(render, 1, true));
  pieces.begin = one[0];
  pieces.user_end = one[1];
  // begin U user_end A assistant_end
  LEXICO_ASSIGN_OR_RETURN(const auto two, RenderAndCut(render, 2, false));
  pieces.assistant_end = two[2];
  // begin U user_end A assistant_end user_begin U user_end
  LEXICO_ASSIGN_OR_RETURN(const auto three, RenderAndCut(render, 3, true));
  if (!three[2].starts_with(pieces.assistant_end)) {
    return Unstable("end of an answer", pieces.assistant_end, three[2]);
  }
  pieces.user_begin = three[2].substr(pieces.assistant_end.size());
  LEXICO_ASSIGN_OR_RETURN(const auto five, RenderAndCut(render, 5, true));

  // "ASSISTANT:" is followed by a space in a finished turn: the model's own.
  const std::string& before_answer = two[1];
  if (!before_answer.starts_with(pieces.user_end) ||
      before_answer.find_first_not_of(" \n\t", pieces.user_end.size()) != std::string::npos) {
    return Unstable("begin of an answer", pieces.user_end, before_answer);
  }
  pieces.answer_begin = before_answer.substr(pieces.user_end.size());
  for (const auto* parts : {&two, &three, &five}) {
    if ((*parts)[0] != pieces.begin) return Unstable("begin", pieces.begin, (*parts)[0]);
    for (size_t i = 1; i < parts->size(); i += 2) {
      const bool is_last = i + 1 == parts->size();  // where the answer is still to come
      const std::string& expected = is_last ? pieces.user_end : before_answer;
      if ((*parts)[i] != expected) return Unstable("begin of an answer", expected, (*parts)[i]);
    }
  }
  const std::string between = pieces.assistant_end + pieces.user_begin;
  for (const size_t i : {2, 4}) {
    if (five[i] != between) return Unstable("text between two turns", between, five[i]);
  }
  LEXICO_ASSIGN_OR_RETURN(pieces.trims_content, FindTrimming(render));
  pieces.system = FindSystem(render, pieces);
  return pieces;
}

}  // namespace lexico::worker

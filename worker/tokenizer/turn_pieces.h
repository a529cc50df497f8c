// Finding the pieces of a conversation by rendering sentinels. For chat_template.cc and its tests.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "worker/tokenizer/chat_template.h"

namespace lexico::worker {

// Renders a conversation: messages, add_generation_prompt.
using RenderFunction =
    std::function<absl::StatusOr<std::string>(std::span<const ChatMessage>, bool)>;

// Renders conversations of one, two and three turns whose texts are sentinels, cuts them at the
// sentinels, and checks that every turn is written with the same pieces however many follow.
// FailedPrecondition says what does not hold; errors of `render` are passed on.
absl::StatusOr<TurnPieces> FindTurnPieces(const RenderFunction& render);

}  // namespace lexico::worker

#include "worker/service/answer_text.h"

namespace lexico::worker {

AnswerText::AnswerText(std::shared_ptr<const Tokenizer> tokenizer, std::vector<std::string> stops)
    : decoder_(std::move(tokenizer), /*skip_special=*/true), matcher_(std::move(stops)) {}

std::string AnswerText::Push(int32_t id, bool is_last) {
  std::string text = matcher_.Feed(decoder_.Push(id));
  if (is_last && !matcher_.matched()) text += matcher_.Feed(decoder_.Flush());
  if (is_last && !matcher_.matched()) text += matcher_.Flush();
  return text;
}

void AnswerText::Skip(std::span<const int32_t> ids) {
  for (const int32_t id : ids) matcher_.Feed(decoder_.Push(id));
}

}  // namespace lexico::worker

// Bytes as a chat template, which then renders two conversations: no crash, no endless work, and
// only UTF-8 comes out.
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "proto/base/check.h"
#include "worker/tokenizer/chat_template.h"
#include "worker/tokenizer/unicode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lexico::worker;  // NOLINT: one function
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  const auto chat = ChatTemplate::FromSource(source, {{"bos_token", "<s>"}, {"eos_token", "</s>"}});
  if (!chat.ok()) return 0;
  const std::vector<ChatMessage> messages = {
      {"system", "be brief"}, {"user", " caf\xC3\xA9 "}, {"assistant", "a<b>"}, {"user", ""}};
  for (const bool add_generation_prompt : {true, false}) {
    const auto text = (*chat)->Render(messages, add_generation_prompt);
    LEXICO_CHECK(!text.ok() || CheckUtf8(*text).ok());
  }
  return 0;
}

// Chat templates: equal to Jinja2 as transformers sets it up (tests/golden/chat_template), the turn
// pieces, the files they are read from, and the limits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/support/temp_dir.h"
#include "tests/worker/tokenizer_goldens.h"
#include "worker/tokenizer/chat_template.h"

namespace lexico::worker {
namespace {

using testing::HasSubstr;

const nlohmann::json& Goldens() {
  static const nlohmann::json goldens = ReadJson("tests/golden/chat_template/goldens.json");
  return goldens;
}

ChatTemplate::Variables TestVariables() { return Goldens()["variables"]; }

std::vector<ChatMessage> Messages(const nlohmann::json& pairs) {
  std::vector<ChatMessage> messages;
  for (const auto& pair : pairs) messages.push_back({pair[0], pair[1]});
  return messages;
}

std::shared_ptr<const ChatTemplate> FromSource(const std::string& source) {
  auto result = ChatTemplate::FromSource(source, TestVariables());
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *result : nullptr;
}

absl::StatusOr<std::string> RenderSource(const std::string& source) {
  auto parsed = ChatTemplate::FromSource(source, TestVariables());
  if (!parsed.ok()) return parsed.status();
  const std::vector<ChatMessage> messages =
      Messages(Goldens()["templates"][0]["cases"][6]["messages"]);
  return (*parsed)->Render(messages, false);
}

void CheckCases(const std::string& name, const ChatTemplate& chat, const nlohmann::json& cases,
                const ChatTemplate::Variables& extra) {
  ASSERT_FALSE(cases.empty());
  for (const auto& c : cases) {
    SCOPED_TRACE(name + ": " + c.dump());
    const auto text = chat.Render(Messages(c["messages"]), c["generate"], extra);
    if (c.contains("error")) {
      EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
    } else {
      ASSERT_TRUE(text.ok()) << text.status();
      EXPECT_EQ(*text, c["text"].get<std::string>());
    }
  }
}

TEST(ChatTemplateTest, RendersAsJinja2DoesForManyStylesOfTemplates) {
  ASSERT_GE(Goldens()["templates"].size(), 8u);
  for (const auto& t : Goldens()["templates"]) {
    CheckCases(t["name"], *FromSource(t["source"]), t["cases"], {});
  }
}

TEST(ChatTemplateTest, EveryFeatureOfTheLanguageGivesTheTextOfJinja2) {
  for (const auto& snippet : Goldens()["snippets"]) {
    const std::string source = snippet["source"];
    SCOPED_TRACE(source);
    const auto text = RenderSource(source);
    if (snippet.contains("error")) {
      EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(text.status().message()), HasSubstr("template line 1"));
    } else {
      ASSERT_TRUE(text.ok()) << text.status();
      EXPECT_EQ(*text, snippet["text"].get<std::string>());
    }
  }
}

TEST(ChatTemplateTest, TheEmbeddedModelsTemplateRendersAsJinja2Does) {
  const auto chat = ChatTemplate::Load("models/lexico-20m/tokenizer_config.json");
  ASSERT_TRUE(chat.ok()) << chat.status();
  CheckCases("lexico-20m", **chat, Goldens()["files"]["lexico-20m"], TestVariables());
}

TEST(ChatTemplateTest, Qwen25RendersAsJinja2Does) {
  const std::string path = SharedFolder() + "/tokenizers/qwen2.5/tokenizer_config.json";
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << path << " is not part of this repository; set LEXICO_SHARED_DIR";
  }
  const auto chat = ChatTemplate::Load(path);
  ASSERT_TRUE(chat.ok()) << chat.status();
  CheckCases("qwen2.5", **chat, Goldens()["files"]["qwen2.5"], TestVariables());
}

TEST(TurnPiecesTest, TheEmbeddedModelsConversationIsItsPiecesInARow) {
  const auto chat = ChatTemplate::Load("models/lexico-20m/tokenizer_config.json");
  ASSERT_TRUE(chat.ok()) << chat.status();
  const auto& pieces = (*chat)->turn_pieces();
  ASSERT_TRUE(pieces.ok()) << pieces.status();
  EXPECT_EQ(pieces->begin, "<|begin_of_text|><|user|>\n");
  EXPECT_EQ(pieces->user_end, "<|end|>\n<|assistant|>\n");
  EXPECT_EQ(pieces->assistant_end, "<|end|>\n");
  EXPECT_EQ(pieces->user_begin, "<|user|>\n");
  EXPECT_FALSE(pieces->trims_content);
  ASSERT_TRUE(pieces->system.has_value());
  EXPECT_EQ(pieces->system->begin, "<|begin_of_text|><|system|>\n");
  EXPECT_EQ(pieces->system->end, "<|end|>\n<|user|>\n");
}

// For every style with pieces: joined by hand they are what the template renders.
TEST(TurnPiecesTest, JoinedPiecesEqualTheRenderedConversation) {
  const std::vector<ChatMessage> messages = {
      {"user", "one"}, {"assistant", "two"}, {"user", "three"}, {"assistant", "four"}};
  int n_with_pieces = 0;
  for (const auto& t : Goldens()["templates"]) {
    const auto chat = FromSource(t["source"]);
    const auto& p = chat->turn_pieces();
    if (!p.ok()) continue;
    ++n_with_pieces;
    const auto text = chat->Render(messages, false);
    ASSERT_TRUE(text.ok()) << text.status();
    const std::string answer = p->user_end + p->answer_begin;
    EXPECT_EQ(*text, p->begin + "one" + answer + "two" + p->assistant_end + p->user_begin +
                         "three" + answer + "four" + p->assistant_end)
        << t["name"];
  }
  EXPECT_GE(n_with_pieces, 6);
}

TEST(TurnPiecesTest, TrimmingTemplatesSaySo) {
  EXPECT_TRUE(FromSource(Goldens()["templates"][2]["source"])->turn_pieces()->trims_content);
  EXPECT_FALSE(FromSource(Goldens()["templates"][0]["source"])->turn_pieces()->trims_content);
}

TEST(TurnPiecesTest, WhiteSpaceThatTheModelWritesIsNotPartOfTheGenerationPrompt) {
  const auto chat = FromSource(Goldens()["templates"][6]["source"]);
  const auto& pieces = chat->turn_pieces();
  ASSERT_TRUE(pieces.ok()) << pieces.status();
  EXPECT_EQ(pieces->user_end, " ASSISTANT:");
  EXPECT_EQ(pieces->answer_begin, " ");
}

TEST(TurnPiecesTest, TemplatesThatRefuseSystemMessagesHaveNoSystemPieces) {
  EXPECT_FALSE(FromSource(Goldens()["templates"][3]["source"])->turn_pieces()->system.has_value());
}

TEST(TurnPiecesTest, TextThatChangesWhenTurnsFollowIsRefused) {
  const auto chat =
      FromSource("{% for m in messages %}{{ loop.length }}:{{ m.content }};{% endfor %}");
  EXPECT_EQ(chat->turn_pieces().status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(TurnPiecesTest, ATemplateThatDropsMessagesIsRefused) {
  const auto chat = FromSource("{{ messages[-1].content }}");
  EXPECT_EQ(chat->turn_pieces().status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(TurnPiecesTest, ATemplateThatWritesAMessageTwiceIsRefused) {
  const auto chat = FromSource("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}");
  EXPECT_EQ(chat->turn_pieces().status().code(), absl::StatusCode::kFailedPrecondition);
}

class ChatTemplateFileTest : public testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& text) {
    return dir_.Write(name, text);
  }
  static std::string RenderHi(const absl::StatusOr<std::shared_ptr<const ChatTemplate>>& chat) {
    if (!chat.ok()) return std::string(chat.status().message());
    const ChatMessage hi{"user", "hi"};
    return (*chat)->Render(std::span(&hi, 1), false).value_or("");
  }
  tests::TempDir dir_;
};

TEST_F(ChatTemplateFileTest, SpecialTokensAreStringsOrObjects) {
  const auto chat = ChatTemplate::Load(Write("tokenizer_config.json", R"({
      "bos_token": "<b>", "eos_token": {"content": "<e>", "lstrip": false}, "pad_token": null,
      "chat_template":
          "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token }}"})"));
  EXPECT_EQ(RenderHi(chat), "<b>hi<e>");
}

TEST_F(ChatTemplateFileTest, TheDefaultOfAListIsTaken) {
  const auto chat = ChatTemplate::Load(Write("tokenizer_config.json", R"({"chat_template": [
      {"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]})"));
  EXPECT_EQ(RenderHi(chat), "D");
}

TEST_F(ChatTemplateFileTest, AJinjaFileBesideTheConfigGoesFirst) {
  Write("chat_template.jinja", "from the file\n");
  const auto chat =
      ChatTemplate::Load(Write("tokenizer_config.json", R"({"chat_template": "from the config"})"));
  EXPECT_EQ(RenderHi(chat), "from the file");
}

TEST_F(ChatTemplateFileTest, NoTemplateIsNotFound) {
  EXPECT_EQ(ChatTemplate::Load(dir_.File("none.json")).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(ChatTemplate::Load(Write("a.json", "{}")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ChatTemplate::Load(Write("b.json", R"({"chat_template": []})")).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(ChatTemplateFileTest, BadFilesAreInvalid) {
  for (const char* text :
       {"", "[]", R"({"chat_template": 7})", R"({"chat_template": "{% if %}"})"}) {
    const auto status = ChatTemplate::Load(Write("bad.json", text)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("bad.json"));
  }
}

TEST(ChatTemplateTest, ErrorsNameTheLine) {
  const auto status = RenderSource("a\nb\n{{ missing.x }}").status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("template line 3: 'missing' is undefined"));
}

TEST(ChatTemplateTest, MessagesMustBeUtf8) {
  const ChatMessage bad{"user", "\xFF"};
  EXPECT_EQ(FromSource("x")->Render(std::span(&bad, 1), false).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// Everything a hostile template could use up.
TEST(ChatTemplateTest, TemplatesAreBounded) {
  const std::string loops =
      "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}";
  const std::string doubling =
      "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}"
      "{% endfor %}";
  const std::string nesting =
      "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}";
  for (const std::string& source :
       {loops, doubling, nesting, std::string("{{ range(10 ** 12) }}"),
        std::string("{{ 'x' * 10 ** 12 }}"),
        std::string("{{ ('x' * 99999).replace('', 'y' * 99999) }}"),
        std::string("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")}) {
    EXPECT_EQ(RenderSource(source).status().code(), absl::StatusCode::kResourceExhausted) << source;
  }
}

TEST(ChatTemplateTest, DeepSourcesAreRefusedAtParsing) {
  std::string brackets(5000, '(');
  std::string blocks;
  std::string sum = "1";
  for (int i = 0; i < 5000; ++i) {
    blocks += "{% if 1 %}";
    sum += "+1";
  }
  for (const std::string& source :
       {"{{ " + brackets + " }}", blocks, "{{ " + sum + " }}",
        "{{ " + std::string(5000, '-') + "1 }}", "{{ " + std::string(5000, '[') + " }}"}) {
    EXPECT_EQ(ChatTemplate::FromSource(source, {}).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(ChatTemplateTest, NamespacesCannotHoldThemselves) {
  EXPECT_EQ(RenderSource("{% set a = namespace() %}{% set a.x = a %}").status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(RenderSource("{% set a = namespace() %}{% set a.x = [a] %}").status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ChatTemplateTest, StrftimeNowGivesTheYear) {
  const auto text = RenderSource("{{ strftime_now('%Y') | int > 2024 }}");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, "True");
}

}  // namespace
}  // namespace lexico::worker

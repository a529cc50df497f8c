// What `lexico` reads: its command line and text files.
#include <gtest/gtest.h>

#include <vector>

#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tools/cli/command.h"
#include "tools/cli/text_input.h"

namespace lexico::cli {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;

absl::Status Parse(std::vector<const char*> arguments, Command* command) {
  CLI::App app;
  AddCommands(app, *command);
  arguments.insert(arguments.begin(), "lexico");
  return ParseArguments(app, static_cast<int>(arguments.size()), arguments.data(), *command);
}

absl::Status Parse(std::vector<const char*> arguments) {
  Command command;
  return Parse(std::move(arguments), &command);
}

TEST(CliCommandLineTest, GlobalFlagsMayStandAnywhere) {
  for (const std::vector<const char*>& arguments :
       {std::vector<const char*>{"--server", "h:1", "--json", "session", "list"},
        std::vector<const char*>{"session", "list", "--json", "--server", "h:1"},
        std::vector<const char*>{"session", "--json", "list", "--server=h:1"}}) {
    Command command;
    ASSERT_THAT(Parse(arguments, &command), IsOk());
    EXPECT_EQ(command.globals.server, "h:1");
    EXPECT_TRUE(command.globals.json);
    EXPECT_TRUE(command.run != nullptr);
  }
}

TEST(CliCommandLineTest, ServerIsAnAddressAlsoFromTheEnvironment) {
  for (const char* server : {"h:0", "h:65536", "h:", "h", "", "h:port"}) {
    EXPECT_THAT(Parse({"session", "list", "--server", server}),
                StatusIs(StatusCode::kInvalidArgument, std::string("--server \"") + server + "\""));
  }
  setenv("LEXICO_SERVER", "h:65536", /*overwrite=*/1);
  EXPECT_THAT(Parse({"session", "list"}), StatusIs(StatusCode::kInvalidArgument, "h:65536"));
  unsetenv("LEXICO_SERVER");
}

TEST(CliCommandLineTest, JsonIsKnownAlsoWhenParsingFails) {
  for (const std::vector<const char*>& arguments :
       {std::vector<const char*>{"--json", "sesion", "list"},
        std::vector<const char*>{"ask", "id", "q", "--top-p", "9", "--json"}}) {
    Command command;
    EXPECT_THAT(Parse(arguments, &command), StatusIs(StatusCode::kInvalidArgument, ""));
    EXPECT_TRUE(command.globals.json);
  }
  Command command;
  EXPECT_THAT(Parse({"ask", "id", "--", "--json"}, &command), IsOk());
  EXPECT_FALSE(command.globals.json);
}

TEST(CliCommandLineTest, UnknownNamesAreAnsweredWithTheNearest) {
  EXPECT_THAT(Parse({"session", "list", "--jsno"}),
              StatusIs(StatusCode::kInvalidArgument, "did you mean --json?"));
  EXPECT_THAT(Parse({"sesion", "list"}),
              StatusIs(StatusCode::kInvalidArgument, "did you mean session?"));
  EXPECT_THAT(Parse({"ask", "id", "q", "--max-new-token", "3"}),
              StatusIs(StatusCode::kInvalidArgument, "did you mean --max-new-tokens?"));
}

TEST(CliCommandLineTest, NumbersOutsideTheirRangeAreRefused) {
  EXPECT_THAT(Parse({"ask", "id", "q", "--top-p", "1.5"}),
              StatusIs(StatusCode::kInvalidArgument, "--top-p"));
  EXPECT_THAT(Parse({"ask", "id", "q", "--max-new-tokens", "0"}),
              StatusIs(StatusCode::kInvalidArgument, "--max-new-tokens"));
  EXPECT_THAT(Parse({"local", "--workers", "0"}),
              StatusIs(StatusCode::kInvalidArgument, "--workers"));
  EXPECT_THAT(Parse({"local", "--kv-memory", "lots"}),
              StatusIs(StatusCode::kInvalidArgument, "512MiB"));
}

TEST(CliCommandLineTest, MissingWordsAreNamed) {
  EXPECT_THAT(Parse({}), StatusIs(StatusCode::kInvalidArgument, "subcommand"));
  EXPECT_THAT(Parse({"ask", "id"}), StatusIs(StatusCode::kInvalidArgument, "question"));
  EXPECT_THAT(Parse({"session", "show"}), StatusIs(StatusCode::kInvalidArgument, "id"));
  EXPECT_THAT(Parse({"session", "demote", "s"}),
              StatusIs(StatusCode::kInvalidArgument, "--profile"));
  EXPECT_THAT(Parse({"session", "demote", "s", "--profile", "paper-s8"}), IsOk());
}

TEST(CliCommandLineTest, TextThatIsNotUtf8IsRefusedByName) {
  for (const auto& [name, arguments] :
       std::vector<std::pair<std::string, std::vector<const char*>>>{
           {"--tenant", {"session", "list", "--tenant", "\xff"}},
           {"--server", {"--server", "\xff:1", "session", "list"}},
           {"--stop", {"ask", "s", "why?", "--stop", "good", "--stop", "ab\xff"}},
           {"id", {"session", "show", "\xff"}},
           {"--id", {"session", "create", "--id", "\xff"}},
           {"--profile", {"session", "create", "--profile", "\xff"}},
           {"--model", {"chat", "--model", "\xff"}},
           {"--min-profile", {"session", "create", "--min-profile", "\xff"}},
           {"--profile", {"session", "demote", "s", "--profile", "\xff"}},
           {"--worker", {"session", "migrate", "s", "--worker", "\xff"}},
           {"worker", {"worker", "drain", "\xff"}}}) {
    EXPECT_THAT(Parse(arguments), StatusIs(StatusCode::kInvalidArgument, name + ": "));
    EXPECT_THAT(Parse(arguments), StatusIs(StatusCode::kInvalidArgument, "UTF-8"));
  }
  // The names of files are bytes.
  EXPECT_THAT(Parse({"session", "append", "s", "\xff.txt"}), IsOk());
  EXPECT_THAT(Parse({"local", "--model", "\xff"}), IsOk());
}

TEST(CliCommandLineTest, TenantsThatGrpcCannotCarryAreRefused) {
  EXPECT_THAT(Parse({"session", "list", "--tenant", "caf\xC3\xA9"}),
              StatusIs(StatusCode::kInvalidArgument, "--tenant has the byte 0xc3 at 3"));
  EXPECT_THAT(Parse({"session", "list", "--tenant", "a\n"}),
              StatusIs(StatusCode::kInvalidArgument, "0x0a at 1"));
  EXPECT_THAT(Parse({"session", "list", "--tenant", "team-1"}), IsOk());
  setenv("LEXICO_TENANT", "\xff", /*overwrite=*/1);
  EXPECT_THAT(Parse({"session", "list"}), StatusIs(StatusCode::kInvalidArgument, "--tenant"));
  unsetenv("LEXICO_TENANT");
}

TEST(CliCommandLineTest, EverySubcommandTeachesByExample) {
  for (const std::vector<const char*>& arguments : {std::vector<const char*>{"local"},
                                                    {"session"},
                                                    {"session", "create"},
                                                    {"session", "append"},
                                                    {"session", "show"},
                                                    {"session", "list"},
                                                    {"session", "fork"},
                                                    {"session", "offload"},
                                                    {"session", "restore"},
                                                    {"session", "migrate"},
                                                    {"session", "delete"},
                                                    {"ask"},
                                                    {"chat"},
                                                    {"worker"},
                                                    {"worker", "list"},
                                                    {"worker", "drain"},
                                                    {"tokenize"},
                                                    {"detokenize"},
                                                    {"models"},
                                                    {"metrics"},
                                                    {"version"}}) {
    std::vector<const char*> with_help = arguments;
    with_help.push_back("--help");
    EXPECT_THAT(Parse(with_help), StatusIs(StatusCode::kCancelled, "Examples:"))
        << arguments.back();
  }
}

TEST(CliTextInputTest, FilesComeInChunksAndWhole) {
  const tests::TempDir dir;
  std::string text;
  for (int i = 0; text.size() < 2 * kChunkBytes + 100; ++i) text += "\xE2\x82\xAC and ";
  const std::string path = dir.Write("a.txt", text);
  std::string read;
  size_t largest = 0;
  size_t last_total = 0;
  ASSERT_THAT(ReadTextFile(path,
                           [&](std::string_view chunk, size_t total) {
                             read += chunk;
                             largest = std::max(largest, chunk.size());
                             last_total = total;
                             return absl::OkStatus();
                           }),
              IsOk());
  EXPECT_EQ(read, text);
  EXPECT_EQ(last_total, text.size());
  EXPECT_LE(largest, kChunkBytes);
  EXPECT_EQ(FileBytes(path), text.size());
}

TEST(CliTextInputTest, BadFilesAreNamedWithTheOffset) {
  const tests::TempDir dir;
  const auto read = [](const std::string& path) {
    return ReadTextFile(path, [](std::string_view, size_t) { return absl::OkStatus(); });
  };
  EXPECT_THAT(read(dir.Write("bad.txt", "abc\xFFxyz")),
              StatusIs(StatusCode::kInvalidArgument, "offset 3"));
  EXPECT_THAT(read(dir.Write("cut.txt", "abc\xE2\x82")),
              StatusIs(StatusCode::kInvalidArgument, "within a character"));
  EXPECT_THAT(read(dir.File("absent.txt")), StatusIs(StatusCode::kNotFound, "absent.txt"));
  EXPECT_THAT(read(dir.path()), StatusIs(StatusCode::kInvalidArgument, "directory"));
  EXPECT_THAT(TextArgument("\xC0"), StatusIs(StatusCode::kInvalidArgument, "offset 0"));
}

}  // namespace
}  // namespace lexico::cli

// lexico-eval, as a user runs it: exit codes (0 done, 1 failed, 2 wrong use) and what it prints.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "tests/e2e/cluster.h"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"

namespace lexico::tests {
namespace {

using nlohmann::json;
using testing::HasSubstr;

struct Result {
  int exit_code = -1;
  std::string out;
  std::string err;
};

Result RunEval(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), Program("lexico-eval"));
  Process process(arguments);
  Result result;
  result.exit_code = process.WaitForExit(absl::Seconds(120));
  result.out = process.out();
  result.err = process.err();
  return result;
}

std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(EvalTest, WrongUseNamesTheNearestAndExitsWithTwo) {
  const Result command = RunEval({"retreival"});
  EXPECT_EQ(command.exit_code, 2);
  EXPECT_THAT(command.err, HasSubstr("did you mean retrieval?"));
  const Result flag = RunEval({"logits", "--modle", "x"});
  EXPECT_EQ(flag.exit_code, 2);
  EXPECT_THAT(flag.err, HasSubstr("did you mean --model?"));
  EXPECT_EQ(RunEval({}).exit_code, 2);
}

TEST(EvalTest, AFailureExitsWithOneAndNamesTheFile) {
  const Result model = RunEval({"logits", "--model", "/nonexistent", "--ids", "1"});
  EXPECT_EQ(model.exit_code, 1);
  EXPECT_THAT(model.err, HasSubstr("/nonexistent"));
  const Result id = RunEval({"logits", "--model", ModelDir(), "--ids", "1,99999999"});
  EXPECT_EQ(id.exit_code, 1);
  EXPECT_THAT(id.err, HasSubstr("99999999"));
}

TEST(EvalTest, ADocumentHoldsItsFactsAndTheSameSeedGivesTheSameOne) {
  const TempDir dir;
  const auto write = [&](const std::string& name, const std::string& seed) {
    const Result result = RunEval({"document", "--model", ModelDir(), "--tokens", "600", "--facts",
                                   "3", "--seed", seed, "--out", dir.path() + "/" + name,
                                   "--questions", dir.path() + "/questions.json"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return ReadText(dir.path() + "/" + name);
  };
  const std::string text = write("first", "3");
  const json questions = json::parse(ReadText(dir.path() + "/questions.json"));
  ASSERT_EQ(questions.size(), 3u);
  for (const json& question : questions) {
    EXPECT_THAT(text, HasSubstr(question["answer"].get<std::string>()));
  }
  EXPECT_EQ(write("again", "3"), text);
  EXPECT_NE(write("other", "4"), text);
}

TEST(EvalTest, RetrievalScoresEveryProfileAndLength) {
  const Result result =
      RunEval({"retrieval", "--model", ModelDir(), "--profiles", "dense,paper-s16", "--lengths",
               "1024", "--documents", "1", "--questions", "4", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json out = json::parse(result.out, nullptr, false);
  ASSERT_FALSE(out.is_discarded()) << result.out;
  EXPECT_THAT(result.out, HasSubstr("dense"));
  EXPECT_THAT(result.out, HasSubstr("paper-s16"));
}

}  // namespace
}  // namespace lexico::tests

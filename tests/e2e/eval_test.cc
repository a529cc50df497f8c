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

TEST(EvalTest, FidelityComparesProfilesAndRivals) {
  const TempDir dir;
  const std::string csv = dir.File("fidelity.csv");
  const Result result =
      RunEval({"fidelity", "--model", ModelDir(), "--text", "docs/ARCHITECTURE.md", "--tokens",
               "384", "--continuation", "32", "--documents", "1", "--profiles", "dense,paper-s16",
               "--rivals", "rotate-2,snapkv-50", "--json", "--csv", csv});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json out = json::parse(result.out, nullptr, false);
  ASSERT_FALSE(out.is_discarded()) << result.out;
  ASSERT_EQ(out["methods"].size(), 4u);
  EXPECT_EQ(out["methods"][0]["kl"], 0);
  EXPECT_EQ(out["methods"][0]["top1"], 1);
  EXPECT_EQ(out["methods"][1]["bytes_per_vector"], 48);
  EXPECT_GT(out["methods"][2]["kl"], 0);
  EXPECT_THAT(ReadText(csv), HasSubstr("snapkv-50,rival,"));
}

TEST(EvalTest, FidelityRefusesWhatItDoesNotKnow) {
  const auto fail = [](const std::string& flag, const std::string& value) {
    std::vector<std::string> arguments = {"fidelity", "--model", ModelDir(), flag, value};
    if (flag != "--text") arguments.insert(arguments.end(), {"--text", "docs/ARCHITECTURE.md"});
    const Result result = RunEval(arguments);
    EXPECT_EQ(result.exit_code, 1);
    return result.err;
  };
  EXPECT_THAT(fail("--profiles", "paper-s1x"), HasSubstr("nearest is paper-s1"));
  EXPECT_THAT(fail("--rivals", "kivi2"), HasSubstr("nearest is kivi-2"));
  EXPECT_THAT(fail("--documents", "1000"), HasSubstr("give a longer text"));
  const TempDir dir;
  EXPECT_THAT(fail("--text", dir.Write("latin1.txt", "caf\xe9 ")), HasSubstr("latin1.txt"));
  EXPECT_THAT(fail("--text", "/nonexistent/text"), HasSubstr("/nonexistent/text"));
}

TEST(EvalTest, CodeWritesTheCodesOfATensor) {
  const TempDir dir;
  const std::string dictionary = ModelDir() + "/dictionaries/dictionary-N4096.safetensors";
  const std::vector<std::string> arguments = {"code",
                                              "--dictionary",
                                              dictionary,
                                              "--layer",
                                              "2",
                                              "--kind",
                                              "v",
                                              "--vectors",
                                              dictionary,
                                              "--tensor",
                                              "layers.3.v",
                                              "--profile",
                                              "paper-s8",
                                              "--error-threshold",
                                              "0.5",
                                              "--out",
                                              dir.File("codes.safetensors"),
                                              "--json"};
  const Result result = RunEval(arguments);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json out = json::parse(result.out, nullptr, false);
  ASSERT_FALSE(out.is_discarded()) << result.out;
  EXPECT_EQ(out["n_vectors"], 4096);
  EXPECT_GT(out["relative_error"]["mean"], 0.1);
  EXPECT_TRUE(std::filesystem::exists(dir.File("codes.safetensors")));
  const Result unknown =
      RunEval({"code", "--dictionary", dictionary, "--layer", "2", "--kind", "v", "--vectors",
               dictionary, "--tensor", "layers.3.v", "--profile", "dense", "--out", dir.File("x")});
  EXPECT_EQ(unknown.exit_code, 1);
  EXPECT_THAT(unknown.err, HasSubstr("choose a paper-sN"));
}

}  // namespace
}  // namespace lexico::tests

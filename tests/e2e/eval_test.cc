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

Result RunProgram(const std::string& name, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), Program(name));
  Process process(arguments);
  Result result;
  result.exit_code = process.WaitForExit(absl::Seconds(120));
  result.out = process.out();
  result.err = process.err();
  return result;
}

Result RunEval(std::vector<std::string> arguments) {
  return RunProgram("lexico-eval", std::move(arguments));
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

TEST(EvalTest, SweepsAndAtomsPrintWhatPlotsRead) {
  const TempDir dir;
  const Result recovery =
      RunEval({"sweep", "recovery", "--n-atoms", "64", "--head-dim", "32", "--sparsities", "1,2",
               "--noises", "0", "--vectors", "50", "--json", "--csv", dir.File("recovery.csv")});
  ASSERT_EQ(recovery.exit_code, 0) << recovery.err;
  const json rows = json::parse(recovery.out, nullptr, false)["rows"];
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0]["exact_support"], 1);
  EXPECT_THAT(ReadText(dir.File("recovery.csv")), HasSubstr("exact_support"));

  const Result universality =
      RunEval({"sweep", "universality", "--model", ModelDir(), "--texts",
               "architecture=docs/ARCHITECTURE.md", "--tokens", "64", "--documents", "1",
               "--vectors", "64", "--sparsities", "8", "--json"});
  ASSERT_EQ(universality.exit_code, 0) << universality.err;
  const json text = json::parse(universality.out, nullptr, false)["rows"][0];
  EXPECT_EQ(text["text"], "architecture");
  EXPECT_GT(text["error_k"], 0.1);
  EXPECT_LT(text["error_k"], 0.6);

  const std::string dictionary = ModelDir() + "/dictionaries/dictionary-N4096.safetensors";
  const Result atoms =
      RunEval({"atoms", "--dictionary", dictionary, "--model", ModelDir(), "--text",
               "docs/ARCHITECTURE.md", "--tokens", "64", "--documents", "1", "--vectors", "64",
               "--json", "--atoms", dir.File("atoms.json")});
  ASSERT_EQ(atoms.exit_code, 0) << atoms.err;
  EXPECT_EQ(json::parse(atoms.out, nullptr, false)["rows"].size(), 16u);
  const json each = json::parse(ReadText(dir.File("atoms.json")), nullptr, false);
  EXPECT_EQ(each["dictionaries"][15]["uses"].size(), 4096u);
}

TEST(InspectTest, ExitsWithWhatItFound) {
  const Result sound = RunProgram("lexico-inspect", {ModelDir() + "/dictionaries", "--json"});
  ASSERT_EQ(sound.exit_code, 0) << sound.err;
  const json reports = json::parse(sound.out, nullptr, false);
  ASSERT_FALSE(reports.empty());
  EXPECT_EQ(reports[0]["kind"], "dictionary");
  EXPECT_EQ(reports[0]["sound"], true);
  const Result unknown = RunProgram("lexico-inspect", {"README.md"});
  EXPECT_EQ(unknown.exit_code, 1);
  EXPECT_THAT(unknown.out, HasSubstr("unknown"));
  const Result absent = RunProgram("lexico-inspect", {"/nonexistent"});
  EXPECT_EQ(absent.exit_code, 1);
  EXPECT_THAT(absent.err, HasSubstr("/nonexistent"));
  EXPECT_EQ(RunProgram("lexico-inspect", {}).exit_code, 2);
}

TEST(EvalTest, SweepsRefuseWhatTheyCannotDo) {
  EXPECT_EQ(RunEval({"sweep"}).exit_code, 2);
  const Result sparsity = RunEval({"sweep", "recovery", "--head-dim", "16", "--sparsities", "17"});
  EXPECT_EQ(sparsity.exit_code, 1);
  EXPECT_THAT(sparsity.err, HasSubstr("1 to 16"));
  const Result text = RunEval({"sweep", "universality", "--model", ModelDir(), "--texts",
                               "short=docs/testing.md", "--tokens", "30000"});
  EXPECT_EQ(text.exit_code, 1);
  EXPECT_THAT(text.err, HasSubstr("short: the text has"));
  const Result alone = RunEval({"atoms", "--dictionary", "x", "--model", ModelDir()});
  EXPECT_EQ(alone.exit_code, 1);
  EXPECT_THAT(alone.err, HasSubstr("go together"));
}

}  // namespace
}  // namespace lexico::tests

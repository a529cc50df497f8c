#include "tools/random_model/random_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <bit>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/support/temp_dir.h"
#include "tools/random_model/random_values.h"
#include "worker/model/config.h"
#include "worker/model/dictionary_file.h"
#include "worker/model/transformer.h"

namespace lexico::random_model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr Preset kTiny = {
    "tiny", "LlamaForCausalLM", "llama", 2, 64, 96, 4, 2, 16, 300, 4096, 1e-5, 1e4, 0, true, false};

float FromBf16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

absl::Status WriteTiny(const std::string& out, RandomModelOptions options) {
  options.out = out;
  return WriteRandomModel(kTiny, options, [](double) {});
}

TEST(Preset, EveryConfigIsOneThatAWorkerTakes) {
  for (const Preset& preset : Presets()) {
    const auto config = worker::ParseModelConfig(preset.name, ConfigJson(preset), "");
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->n_layers, preset.n_layers);
    EXPECT_EQ(config->n_kv_heads, preset.n_kv_heads);
    EXPECT_EQ(config->qkv_bias, preset.qkv_bias);
    EXPECT_EQ(config->rope.factor, preset.rope_factor > 0 ? preset.rope_factor : 1);
    EXPECT_TRUE(config->eos_ids.empty());
  }
}

TEST(Preset, AreOfTheSizesOfTheirNames) {
  const auto billions = [](const char* name) {
    return static_cast<double>(BytesOf(*FindPreset(name), 0)) / 2e9;
  };
  EXPECT_NEAR(billions("llama-3.1-8b"), 8.03, 0.01);
  EXPECT_NEAR(billions("llama-3.2-1b"), 1.236, 0.001);
  EXPECT_NEAR(billions("llama-3.1-70b"), 70.55, 0.01);
  EXPECT_NEAR(billions("mistral-7b"), 7.248, 0.001);
  EXPECT_NEAR(billions("qwen2.5-14b"), 14.77, 0.01);
}

TEST(Preset, UnknownNameIsRefusedWithTheNearest) {
  const auto found = FindPreset("llama-3-8b");
  EXPECT_TRUE(absl::IsNotFound(found.status()));
  EXPECT_THAT(std::string(found.status().message()),
              AllOf(HasSubstr("no preset llama-3-8b"), HasSubstr("did you mean llama-3.1-8b?"),
                    HasSubstr("qwen2.5-14b")));
}

TEST(RandomValues, AreNearlyNormalAndOfTheirPlace) {
  constexpr int kN = 100000;
  std::vector<uint16_t> values(kN);
  FillBf16({.seed = 3, .array = 5}, 0, 0.25, 2.0, values);
  double sum = 0;
  double squares = 0;
  for (const uint16_t value : values) {
    sum += FromBf16(value);
    squares += std::pow(FromBf16(value) - 0.25, 2);
  }
  // Four standard errors of a mean and of a variance of kN numbers.
  EXPECT_NEAR(sum / kN, 0.25, 4 * 2 / std::sqrt(kN));
  EXPECT_NEAR(squares / kN, 4.0, 4 * 4 * std::sqrt(2.0 / kN));
  std::vector<uint16_t> part(100);
  FillBf16({.seed = 3, .array = 5}, 777, 0.25, 2.0, part);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), values.begin() + 777));
  FillBf16({.seed = 3, .array = 6}, 777, 0.25, 2.0, part);
  EXPECT_FALSE(std::equal(part.begin(), part.end(), values.begin() + 777));
}

TEST(RandomModel, IsLoadedByAWorkerAndGivesFiniteLogits) {
  const tests::TempDir dir;
  const std::string out = dir.path() + "/model";
  ASSERT_TRUE(WriteTiny(out, {.seed = 1, .n_atoms = 128, .threads = 2}).ok());
  const auto stream = kernels::Stream::Cpu(1);
  const auto model = worker::Transformer::Load(out, stream);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto dictionary =
      worker::ModelDictionary::Load(out + "/dictionaries/random-N128.safetensors",
                                    (*model)->config(), (*model)->fingerprint(), stream);
  ASSERT_TRUE(dictionary.ok()) << dictionary.status();
  EXPECT_EQ((*dictionary)->n_atoms(), 128);
  const std::vector<int32_t> ids = {1, 299};
  std::vector<float> hidden(ids.size() * kTiny.hidden_dim);
  std::vector<float> logits(ids.size() * kTiny.vocab_size);
  worker::Transformer::Scratch scratch;
  (*model)->Embed(ids, hidden.data());
  (*model)->Logits(hidden.data(), 2, logits.data(), scratch);
  float largest = 0;
  for (const float logit : logits) {
    ASSERT_TRUE(std::isfinite(logit));
    largest = std::max(largest, std::fabs(logit));
  }
  EXPECT_GT(largest, 0.5);
}

TEST(RandomModel, DependsOnTheSeedAndNotOnTheThreads) {
  const tests::TempDir dir;
  ASSERT_TRUE(WriteTiny(dir.path() + "/a", {.seed = 7, .n_atoms = 16, .threads = 1}).ok());
  ASSERT_TRUE(WriteTiny(dir.path() + "/b", {.seed = 7, .n_atoms = 16, .threads = 3}).ok());
  ASSERT_TRUE(WriteTiny(dir.path() + "/c", {.seed = 8, .n_atoms = 16, .threads = 1}).ok());
  for (const char* file : {"model.safetensors", "dictionaries/random-N16.safetensors"}) {
    const std::string a = tests::ReadFile(dir.path() + "/a/" + file);
    EXPECT_GT(a.size(), 1000U);
    EXPECT_EQ(a, tests::ReadFile(dir.path() + "/b/" + file)) << file;
    EXPECT_NE(a, tests::ReadFile(dir.path() + "/c/" + file)) << file;
  }
}

TEST(RandomModel, AFolderThatHoldsSomethingIsRefused) {
  const tests::TempDir dir;
  std::ofstream(dir.path() + "/note") << "mine";
  const absl::Status status = WriteTiny(dir.path(), {.n_atoms = 0});
  EXPECT_TRUE(absl::IsAlreadyExists(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("--out"));
  EXPECT_EQ(tests::ReadFile(dir.path() + "/note"), "mine");
}

TEST(RandomModel, AModelThatDoesNotFitTheDiskIsRefusedBeforeItIsWritten) {
  const tests::TempDir dir;
  Preset huge = kTiny;
  huge.ffn_dim = 1 << 30;
  huge.n_layers = 256;
  const absl::Status status =
      WriteRandomModel(huge, {.out = dir.path() + "/huge", .n_atoms = 0}, [](double) {});
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("needs"), HasSubstr("free")));
  EXPECT_TRUE(std::filesystem::is_empty(dir.path() + "/huge"));
}

// The limit of the size of a file stands for a disk that others fill meanwhile.
TEST(RandomModel, ADiskThatFillsUpMeanwhileIsSaidAndLeavesNoModel) {
  const tests::TempDir dir;
  const auto fill = [&] {
    const rlimit limit = {10'000, RLIM_INFINITY};
    std::signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    const absl::Status status = WriteTiny(dir.path() + "/m", {.n_atoms = 0, .threads = 2});
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    std::exit(absl::IsResourceExhausted(status) ? 0 : 1);
  };
  EXPECT_EXIT(fill(), testing::ExitedWithCode(0),
              "/m/model.safetensors: cannot be written.*--layers");
  EXPECT_TRUE(std::filesystem::is_empty(dir.path() + "/m"));
}

TEST(RandomModel, TellsHowLongItWillTake) {
  const double seconds = SecondsFor(int64_t{1} << 30, 1);
  EXPECT_GT(seconds, 0.01);
  EXPECT_LT(seconds, 1000);
}

TEST(RandomModel, ATokenizerWithMoreIdsThanTheVocabularyIsRefused) {
  const tests::TempDir dir;
  const absl::Status status =
      WriteTiny(dir.path() + "/m", {.n_atoms = 0, .tokenizer = "models/lexico-20m"});
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("8192 ids"), HasSubstr("has 300")));
  EXPECT_FALSE(std::filesystem::exists(dir.path() + "/m/config.json"));
}

TEST(RandomModel, AnImpossibleNumberOfAtomsIsRefused) {
  const tests::TempDir dir;
  const absl::Status status = WriteTiny(dir.path() + "/m", {.n_atoms = 3});
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("n_atoms is 3"), HasSubstr("16")));
}

}  // namespace
}  // namespace lexico::random_model

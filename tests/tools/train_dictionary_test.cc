#include "tools/train_dictionary/train_dictionary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>

#include "tests/support/status_matchers.h"
#include "tests/tools/train_dictionary_fixture.h"
#include "worker/model/dictionary_file.h"
#include "worker/model/safetensors.h"
#include "worker/model/transformer.h"

namespace lexico::train_dictionary {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using tests::IsOk;

class TrainDictionaryTest : public testing::Test, protected TrainingFixture {
 protected:
  void ExpectRefused(const Options& options, absl::StatusCode code, const std::string& one,
                     const std::string& other) {
    const auto outcome = Train(options);
    EXPECT_EQ(outcome.status().code(), code) << outcome.status();
    EXPECT_THAT(std::string(outcome.status().message()), AllOf(HasSubstr(one), HasSubstr(other)));
    EXPECT_FALSE(std::filesystem::exists(options.out));
  }
  // What a run that is killed after `n_rounds` leaves behind.
  void LeaveCheckpoint(Options* options, int n_rounds) {
    options->checkpoint = dir().File("running");
    const std::string left = dir().File("checkpoint");
    const auto outcome = TrainDictionary(*options, [&](const Progress& progress) {
      if (progress.errors == nullptr || progress.n_rounds_done != n_rounds) return;
      std::filesystem::copy_file(options->checkpoint, left);
    });
    ASSERT_THAT(outcome, IsOk());
    std::filesystem::remove(options->out);
    options->checkpoint = left;
  }
};

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST_F(TrainDictionaryTest, BeatsRandomAtomsOnHeldOutTextAndIsWhatAWorkerReads) {
  Options options = Small();
  options.n_rounds = 12;
  const auto trained = Train(options);
  ASSERT_THAT(trained, IsOk());
  EXPECT_EQ(trained->n_positions, 512);
  EXPECT_EQ(trained->n_samples, 1488);  // whole runs
  const auto stream = kernels::Stream::Cpu(1);
  const auto model = worker::Transformer::Load(options.model_dir, stream);
  ASSERT_THAT(model, IsOk());
  const auto dictionary = worker::ModelDictionary::Load(options.out, (*model)->config(),
                                                        (*model)->fingerprint(), stream);
  ASSERT_THAT(dictionary, IsOk());
  EXPECT_EQ((*dictionary)->n_atoms(), 32);

  ASSERT_THAT(random_model::WriteRandomModel(
                  kTiny, {.out = dir().File("random"), .n_atoms = 32, .threads = 1}, [](double) {}),
              IsOk());
  options.from = dir().File("random/dictionaries/random-N32.safetensors");
  options.n_rounds = 0;
  options.out = dir().File("measured.safetensors");
  const auto random = Train(options);
  ASSERT_THAT(random, IsOk());
  for (size_t i = 0; i < trained->errors.size(); ++i) {
    EXPECT_LT(trained->errors[i].all, 0.95 * random->errors[i].all) << DictionaryName(i);
  }
  options.from = dir().File("out.safetensors");
  const auto again = Train(options);
  ASSERT_THAT(again, IsOk());
  EXPECT_NEAR(MeanError(again->errors, true), MeanError(trained->errors, true), 1e-6);
}

TEST_F(TrainDictionaryTest, EqualSeedsGiveEqualBytesWhateverTheThreads) {
  Options options = Small();
  ASSERT_THAT(Train(options), IsOk());
  const std::string first = tests::ReadFile(options.out);
  options.threads = 3;
  ASSERT_THAT(Train(options), IsOk());
  EXPECT_EQ(first, tests::ReadFile(options.out));
  options.seed = 2;
  ASSERT_THAT(Train(options), IsOk());
  EXPECT_NE(first, tests::ReadFile(options.out));
}

TEST_F(TrainDictionaryTest, TheFileSaysHowItWasTrained) {
  const Options options = Small();
  ASSERT_THAT(Train(options), IsOk());
  const auto file = worker::SafetensorsFile::Open(options.out);
  ASSERT_THAT(file, IsOk());
  const auto& metadata = (*file)->metadata();
  EXPECT_EQ(metadata.at("atoms"), "32");
  EXPECT_EQ(metadata.at("train_sparsity"), "3");
  EXPECT_EQ(metadata.at("train_positions"), "512");
  EXPECT_EQ(metadata.at("train_window"), "128");
  EXPECT_EQ(metadata.at("train_passes"), "1");
  EXPECT_EQ(metadata.at("train_samples"), "1488");
  EXPECT_EQ(metadata.at("model_fingerprint").size(), 32U);
  EXPECT_EQ(metadata.at("text_fingerprint").size(), 32U);
  EXPECT_GT(std::stod(metadata.at("held_out_error.layers.1.v")), 0);
}

TEST_F(TrainDictionaryTest, AResumedRunWritesTheFileOfAnUninterruptedOne) {
  Options options = Small();
  ASSERT_THAT(Train(options), IsOk());
  const std::string whole = tests::ReadFile(options.out);
  options.out = dir().File("resumed.safetensors");
  LeaveCheckpoint(&options, 2);
  const auto resumed = Train(options);
  ASSERT_THAT(resumed, IsOk());
  EXPECT_EQ(resumed->n_rounds_resumed, 2);
  EXPECT_EQ(whole, tests::ReadFile(options.out));
  EXPECT_FALSE(std::filesystem::exists(options.checkpoint));
}

// The window of the first round of this seed lies in the half that stays.
TEST_F(TrainDictionaryTest, LaterRoundsReadOtherTextAndSayWhenItHasChanged) {
  Options options = Small();
  options.n_samples = 64;
  options.seed = 1;
  options.n_rounds = 12;
  int n_rounds_done = 0;
  const auto outcome = TrainDictionary(options, [&](const Progress& progress) {
    if (progress.errors == nullptr) return;
    n_rounds_done = progress.n_rounds_done;
    std::filesystem::resize_file(dir().File("text"), 20000);
  });
  EXPECT_TRUE(absl::IsUnavailable(outcome.status())) << outcome.status();
  EXPECT_THAT(std::string(outcome.status().message()),
              AllOf(HasSubstr("text"), HasSubstr("has changed")));
  EXPECT_GE(n_rounds_done, 1);
  EXPECT_LT(n_rounds_done, 12);
}

TEST_F(TrainDictionaryTest, ProgressOfAllRoundsRisesToOneAndErrorsComeAfterEach) {
  double last = 0;
  int n_errors = 0;
  ASSERT_THAT(TrainDictionary(Small(),
                              [&](const Progress& progress) {
                                if (progress.stage != Progress::Stage::kTrain) return;
                                EXPECT_GE(progress.fraction, last);
                                last = progress.fraction;
                                if (progress.errors != nullptr) {
                                  EXPECT_EQ(progress.n_rounds_done, ++n_errors);
                                } else {
                                  EXPECT_LT(progress.fraction, 1);
                                }
                              }),
              IsOk());
  EXPECT_EQ(last, 1);
  EXPECT_EQ(n_errors, 4);
}

TEST_F(TrainDictionaryTest, ACheckpointOfAnotherRunIsRefusedAndBothAreNamed) {
  Options options = Small();
  LeaveCheckpoint(&options, 1);
  options.seed = 5;
  ExpectRefused(options, absl::StatusCode::kFailedPrecondition, "train_seed is 1 there, 5 here",
                options.checkpoint);
  options.seed = 1;
  std::string bytes = tests::ReadFile(options.checkpoint);
  bytes[bytes.size() - 100] ^= 1;
  dir().Write("checkpoint", bytes);
  ExpectRefused(options, absl::StatusCode::kDataLoss, "CRC32C", "was written");
  dir().Write("checkpoint", "not a checkpoint");
  EXPECT_FALSE(Train(options).ok());
}

TEST_F(TrainDictionaryTest, TextThatIsTooShortIsRefused) {
  Options options = Small();
  options.text_files = {dir().Write("short", Words(100, 2))};
  options.n_positions = 0;
  ExpectRefused(options, kInvalid, "the text is too short", "64 are needed");
  options.text_files = {dir().Write("longer", Words(4000, 2))};
  options.n_positions = 512;
  ExpectRefused(options, kInvalid, "512 are needed", "--tokens");
  options.text_files = {dir().Write("empty", "")};
  ExpectRefused(options, kInvalid, "empty", "--text");
  options.text_files = {dir().File("absent")};
  ExpectRefused(options, absl::StatusCode::kNotFound, "absent", "cannot be read");
}

TEST_F(TrainDictionaryTest, TextThatIsNotUtf8IsRefusedByFileAndByte) {
  Options options = Small();
  options.text_files = {dir().Write("latin1", "caf\xe9 au lait")};
  ExpectRefused(options, kInvalid, "latin1: text is not UTF-8", "offset 4");
}

TEST_F(TrainDictionaryTest, ASetLargerThanTheTextIsRefused) {
  Options options = Small();
  options.n_samples = 1'000'000;
  ExpectRefused(options, kInvalid, "--samples is 1000000", "at most");
}

TEST_F(TrainDictionaryTest, MoreAtomsThanVectorsAreRefused) {
  Options options = Small();
  options.n_atoms = 2000;
  ExpectRefused(options, kInvalid, "--n_atoms is 2000", "1488");
}

TEST_F(TrainDictionaryTest, OptionsThatTheModelCannotHaveAreRefused) {
  Options options = Small();
  options.n_positions = 4096;
  ExpectRefused(options, kInvalid, "--tokens is 4096", "2048 positions");
  options = Small();
  options.sparsity = 17;
  ExpectRefused(options, kInvalid, "--sparsity is 17", "head_dim 16");
  options = Small();
  options.n_rounds = 0;
  ExpectRefused(options, kInvalid, "--rounds is 0", "--from");
}

TEST_F(TrainDictionaryTest, ADictionaryOfAnotherHeadDimIsNoBeginning) {
  Options options = Small();
  options.from = "models/lexico-20m/dictionaries/dictionary-N4096.safetensors";
  ExpectRefused(options, kInvalid, "layers.0.k", "128");
}

TEST_F(TrainDictionaryTest, APlaceWithoutRoomIsRefusedBeforeTheWork) {
  Options options = Small();
  options.out = dir().File("nowhere/out.safetensors");
  ExpectRefused(options, absl::StatusCode::kNotFound, "nowhere", "--out");
}

// The limit of the size of a file stands for a disk that others fill meanwhile.
TEST_F(TrainDictionaryTest, ADiskThatFillsUpMeanwhileLeavesWhatWasThere) {
  const Options options = Small();
  dir().Write("out.safetensors", "before");
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit limit = {1000, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  const absl::Status status = Train(options).status();
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("cannot be written"), HasSubstr("free space"), HasSubstr("--out")));
  EXPECT_EQ(tests::ReadFile(options.out), "before");
  EXPECT_FALSE(std::filesystem::exists(options.out + ".partial"));
}

}  // namespace
}  // namespace lexico::train_dictionary

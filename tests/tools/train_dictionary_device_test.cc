// The whole training on a GPU: the model's windows, sets, codes and updates in its memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"
#include "tests/tools/train_dictionary_fixture.h"
#include "worker/model/dictionary_file.h"
#include "worker/model/transformer.h"

namespace lexico::train_dictionary {
namespace {

using tests::IsOk;

class TrainDictionaryDeviceTest : public testing::Test, protected TrainingFixture {
 protected:
  void SetUp() override {
    const auto stream = kernels::Stream::Open("cuda", 1);
    if (!stream.ok()) GTEST_SKIP() << stream.status().message();
  }
  Options OnGpu() const {
    Options options = Small();
    options.device = "cuda";
    options.n_rounds = 8;
    return options;
  }
};

TEST_F(TrainDictionaryDeviceTest, LearnsAsMuchAsACpu) {
  Options options = OnGpu();
  const auto on_gpu = Train(options);
  ASSERT_THAT(on_gpu, IsOk());
  options.device = "cpu";
  options.out = dir().File("cpu.safetensors");
  const auto on_cpu = Train(options);
  ASSERT_THAT(on_cpu, IsOk());
  // Roundings differ, and with them which atoms are taken; not what is learnt.
  for (size_t i = 0; i < on_cpu->errors.size(); ++i) {
    EXPECT_NEAR(on_gpu->errors[i].all, on_cpu->errors[i].all, 0.03 * on_cpu->errors[i].all)
        << DictionaryName(static_cast<int>(i));
  }
  // Another device finds the errors that the GPU reported of its file.
  options.from = dir().File("out.safetensors");
  options.out = dir().File("measured.safetensors");
  options.n_rounds = 0;
  const auto measured = Train(options);
  ASSERT_THAT(measured, IsOk());
  EXPECT_NEAR(MeanError(measured->errors, false), MeanError(on_gpu->errors, false), 0.002);
  EXPECT_NEAR(MeanError(measured->errors, true), MeanError(on_gpu->errors, true), 0.002);
}

TEST_F(TrainDictionaryDeviceTest, EqualSeedsGiveEqualBytes) {
  const Options options = OnGpu();
  ASSERT_THAT(Train(options), IsOk());
  const std::string first = tests::ReadFile(options.out);
  ASSERT_THAT(Train(options), IsOk());
  EXPECT_EQ(first, tests::ReadFile(options.out));
}

TEST_F(TrainDictionaryDeviceTest, AResumedRunWritesTheFileOfAnUninterruptedOne) {
  Options options = OnGpu();
  ASSERT_THAT(Train(options), IsOk());
  const std::string whole = tests::ReadFile(options.out);
  options.checkpoint = dir().File("running");
  const std::string left = dir().File("checkpoint");
  ASSERT_THAT(TrainDictionary(options,
                              [&](const Progress& progress) {
                                if (progress.errors == nullptr || progress.n_rounds_done != 3) {
                                  return;
                                }
                                std::filesystem::copy_file(options.checkpoint, left);
                              }),
              IsOk());
  options.checkpoint = left;
  const auto resumed = Train(options);
  ASSERT_THAT(resumed, IsOk());
  EXPECT_EQ(resumed->n_rounds_resumed, 3);
  EXPECT_EQ(whole, tests::ReadFile(options.out));
}

}  // namespace
}  // namespace lexico::train_dictionary

// The forward pass against Hugging Face transformers in float32: tiny random models of every
// architecture and variant (golden/model, with the script that made them), a real pretrained one
// where it is present, and the embedded model.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "kernels/api/matmul.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/model_forward.h"
#include "worker/model/exact_decoder.h"

namespace lexico::worker {
namespace {

using Json = nlohmann::json;
using tests::IsOk;

constexpr char kGoldenDir[] = "tests/golden/model/";

Json ReadJson(const std::string& path) { return Json::parse(tests::ReadFile(path)); }

// Where the matrix unit rounds activations to BF16 (eps 2^-8, AMX and AVX512_BF16), logits differ
// by about 0.7 % on the embedded model; otherwise only the order of FP32 sums differs.
double ToleranceFor(const ModelConfig& config) {
  const bool rounds =
      config.dtype == "bfloat16" &&
      std::strstr(kernels::MatMulUnit(kernels::Stream::Cpu(1)), "oneDNN BF16") != nullptr;
  return rounds ? 3e-2 : 1e-4;
}

// Largest difference in units of the largest expected logit; NaN counts as infinite.
double RelativeDifference(std::span<const float> actual, const std::vector<float>& expected) {
  double difference = 0;
  double largest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double d = std::abs(static_cast<double>(actual[i]) - expected[i]);
    difference = d <= difference ? difference : std::isnan(d) ? INFINITY : d;
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
  }
  return difference / largest;
}

int32_t ArgMax(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

std::unique_ptr<Transformer> LoadModel(const std::string& dir) {
  auto model = Transformer::Load(dir, kernels::Stream::Cpu());
  EXPECT_THAT(model, IsOk());
  return model.ok() ? *std::move(model) : nullptr;
}

class TinyModelTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string dir = kGoldenDir + std::string(GetParam());
    model_ = LoadModel(dir);
    ASSERT_NE(model_, nullptr);
    const Json golden = ReadJson(dir + "/golden.json");
    ids_ = golden["ids"].get<std::vector<int32_t>>();
    rows_ = golden["logits"].get<std::vector<std::vector<float>>>();
  }
  void ExpectGolden(const std::vector<float>& logits) {
    const size_t vocab_size = model_->config().vocab_size;
    ASSERT_EQ(logits.size(), rows_.size() * vocab_size);
    for (size_t i = 0; i < rows_.size(); ++i) {
      EXPECT_LT(RelativeDifference({&logits[i * vocab_size], vocab_size}, rows_[i]),
                ToleranceFor(model_->config()))
          << "row " << i;
    }
  }

  std::unique_ptr<Transformer> model_;
  std::vector<int32_t> ids_;
  std::vector<std::vector<float>> rows_;  // expected logits of the last rows
};

TEST_P(TinyModelTest, LayersWithAttentionInDoubleAgreeWithTransformers) {
  ExpectGolden(tests::PlainForward(*model_, ids_, static_cast<int64_t>(rows_.size())));
}

TEST_P(TinyModelTest, ExactDecoderAgreesWithTransformersAtOnce) {
  ExactDecoder decoder(*model_, kernels::Stream::Cpu());
  const auto logits = decoder.Append(ids_, static_cast<int64_t>(rows_.size()));
  ASSERT_THAT(logits, IsOk());
  ExpectGolden(*logits);
}

TEST_P(TinyModelTest, ExactDecoderAgreesWithTransformersTokenByToken) {
  ExactDecoder decoder(*model_, kernels::Stream::Cpu());
  std::vector<float> last_rows;
  for (size_t i = 0; i < ids_.size(); ++i) {
    const auto logits = decoder.Append({&ids_[i], 1});
    ASSERT_THAT(logits, IsOk());
    if (i + rows_.size() < ids_.size()) continue;
    last_rows.insert(last_rows.end(), logits->begin(), logits->end());
  }
  ExpectGolden(last_rows);
}

TEST_P(TinyModelTest, RowsBeyondOneBlockComeOutAsInBlocks) {
  const ModelConfig& config = model_->config();
  const int64_t row_block = model_->row_block();
  const int64_t n = 2 * row_block + 3;
  std::vector<int32_t> ids(n), positions(n);
  for (int64_t i = 0; i < n; ++i) {
    ids[i] = static_cast<int32_t>(i * 7 % config.vocab_size);
    positions[i] = static_cast<int32_t>(i % config.max_positions);
  }
  Transformer::Scratch scratch;
  std::vector<float> hidden(n * config.hidden_dim), q(n * config.q_dim());
  std::vector<float> k(n * config.kv_dim()), v(n * config.kv_dim()), q1(config.q_dim());
  std::vector<float> k1(config.kv_dim()), v1(config.kv_dim());
  model_->Embed(ids, hidden.data());
  model_->AttentionInputs(0, hidden.data(), n, positions.data(), q.data(), k.data(), v.data(),
                          scratch);
  const size_t steady_bytes = scratch.bytes();
  for (const int64_t row : {int64_t{0}, row_block - 1, row_block, n - 1}) {
    model_->AttentionInputs(0, &hidden[row * config.hidden_dim], 1, &positions[row], q1.data(),
                            k1.data(), v1.data(), scratch);
    const auto expect_row = [&](const std::vector<float>& many, const std::vector<float>& one) {
      const std::vector<float> expected(
          many.begin() + row * static_cast<int64_t>(one.size()),
          many.begin() + (row + 1) * static_cast<int64_t>(one.size()));
      EXPECT_LT(RelativeDifference(one, expected), ToleranceFor(config)) << "row " << row;
    };
    expect_row(q, q1);
    expect_row(k, k1);
    expect_row(v, v1);
  }
  EXPECT_EQ(scratch.bytes(), steady_bytes) << "a smaller batch must not allocate";
}

INSTANTIATE_TEST_SUITE_P(All, TinyModelTest,
                         testing::Values("llama_gqa_hd8_f32", "llama_mqa_hd16_bf16_llama3_tied",
                                         "llama_mha_hd64_f16_linear", "llama_sharded_f32",
                                         "mistral_bf16", "qwen2_bias_f32_tied"),
                         [](const auto& model) { return std::string(model.param); });

// Where ../shared of the source folder, or LEXICO_SHARED_DIR, has the checkpoint.
std::string StoriesDir() {
  const char* shared = std::getenv("LEXICO_SHARED_DIR");
  return std::string(shared != nullptr ? shared : "../shared") + "/checkpoints/stories260K";
}

std::vector<int32_t> Greedy(const Transformer& model, std::span<const int32_t> prompt, size_t n) {
  ExactDecoder decoder(model, kernels::Stream::Cpu());
  std::vector<int32_t> ids(prompt.begin(), prompt.end());
  auto logits = decoder.Append(prompt);
  EXPECT_THAT(logits, IsOk());
  while (logits.ok() && ids.size() < n) {
    ids.push_back(ArgMax(*logits));
    logits = decoder.Append({&ids.back(), 1});
    EXPECT_THAT(logits, IsOk());
  }
  return ids;
}

TEST(StoriesTest, FirstLogitsAndGreedyIdsAreTheCheckpointsOwn) {
  if (!std::filesystem::exists(StoriesDir())) {
    GTEST_SKIP() << StoriesDir() << " is absent; set LEXICO_SHARED_DIR";
  }
  const auto model = LoadModel(StoriesDir());
  ASSERT_NE(model, nullptr);
  const Json golden = ReadJson(StoriesDir() + "/golden.json");
  const auto ids = golden["ids"].get<std::vector<int32_t>>();
  const std::span<const int32_t> prompt(ids.data(), golden["n_prompt"].get<size_t>());
  ExactDecoder decoder(*model, kernels::Stream::Cpu());
  const auto logits = decoder.Append(prompt);
  ASSERT_THAT(logits, IsOk());
  const auto top = golden["first_step_top5"].get<std::vector<size_t>>();
  const auto expected = golden["logits"].get<std::vector<float>>();
  std::vector<float> actual;
  for (const size_t id : top) actual.push_back((*logits)[id]);
  EXPECT_LT(RelativeDifference(actual, expected), 1e-5);
  EXPECT_EQ(Greedy(*model, prompt, ids.size()), ids);
}

TEST(StoriesTest, TwoHundredGreedyTokensEqualTransformers) {
  if (!std::filesystem::exists(StoriesDir())) {
    GTEST_SKIP() << StoriesDir() << " is absent; set LEXICO_SHARED_DIR";
  }
  const auto model = LoadModel(StoriesDir());
  ASSERT_NE(model, nullptr);
  const Json golden = ReadJson(std::string(kGoldenDir) + "stories260k_greedy.json");
  const auto ids = golden["ids"].get<std::vector<int32_t>>();
  const auto n_prompt = golden["n_prompt"].get<size_t>();
  ASSERT_EQ(ids.size(), n_prompt + 200);
  EXPECT_EQ(Greedy(*model, {ids.data(), n_prompt}, ids.size()), ids);
}

TEST(EmbeddedModelTest, LogitsAgreeWithTransformers) {
  const auto model = LoadModel("models/lexico-20m");
  ASSERT_NE(model, nullptr);
  const Json golden = ReadJson(std::string(kGoldenDir) + "lexico20m_logits.json");
  const auto ids = golden["ids"].get<std::vector<int32_t>>();
  ExactDecoder decoder(*model, kernels::Stream::Cpu());
  const auto logits = decoder.Append(ids);
  ASSERT_THAT(logits, IsOk());
  EXPECT_EQ(ArgMax(*logits), golden["argmax"].get<int32_t>());
  std::vector<float> actual, expected;
  for (const Json& kept : golden["kept"]) {
    actual.push_back((*logits)[kept[0].get<size_t>()]);
    expected.push_back(kept[1].get<float>());
  }
  EXPECT_LT(RelativeDifference(actual, expected), ToleranceFor(model->config()));
}

}  // namespace
}  // namespace lexico::worker

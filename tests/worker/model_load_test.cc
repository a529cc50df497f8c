// A model folder that is not what it says is refused at load, by the name of the tensor.
#include <gtest/gtest.h>

#include <filesystem>
#include <limits>

#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/model_safetensors_writer.h"
#include "worker/model/device_fit.h"
#include "worker/model/exact_decoder.h"
#include "worker/model/transformer.h"

namespace lexico::worker {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::SafetensorsWriter;
using tests::StatusIs;

// A Llama of one layer: hidden 4, 2 heads and 1 KV head of 4, ffn 6, vocabulary 5.
class ModelLoadTest : public testing::Test {
 protected:
  struct Tensor {
    std::string name;
    std::vector<int64_t> shape;
  };

  ModelLoadTest() {
    WriteConfig("");
    const std::string layer = "model.layers.0.";
    tensors_ = {{"model.embed_tokens.weight", {5, 4}},
                {"model.norm.weight", {4}},
                {"lm_head.weight", {5, 4}},
                {layer + "input_layernorm.weight", {4}},
                {layer + "post_attention_layernorm.weight", {4}},
                {layer + "self_attn.q_proj.weight", {8, 4}},
                {layer + "self_attn.k_proj.weight", {4, 4}},
                {layer + "self_attn.v_proj.weight", {4, 4}},
                {layer + "self_attn.o_proj.weight", {4, 8}},
                {layer + "mlp.gate_proj.weight", {6, 4}},
                {layer + "mlp.up_proj.weight", {6, 4}},
                {layer + "mlp.down_proj.weight", {4, 6}}};
  }
  // `extra` are more fields: R"("attention_bias":true,)".
  void WriteConfig(std::string_view extra) {
    dir_.Write("config.json", fmt::format(R"({{{} "architectures":["LlamaForCausalLM"],
      "vocab_size":5,"hidden_size":4,"intermediate_size":6,"num_hidden_layers":1,"head_dim":4,
      "num_attention_heads":2,"num_key_value_heads":1,"max_position_embeddings":8,
      "rms_norm_eps":1e-5}})",
                                          extra));
  }
  // Every element of a tensor is a different small number, unless `value` says otherwise.
  absl::StatusOr<std::unique_ptr<Transformer>> Load(float value = 0) {
    SafetensorsWriter writer;
    for (const Tensor& tensor : tensors_) {
      int64_t n = 1;
      for (const int64_t dim : tensor.shape) n *= dim;
      std::vector<float> values(n, value);
      for (int64_t i = 0; i < n && value == 0; ++i)
        values[i] = 0.1f * static_cast<float>(i % 7) - 0.3f;
      writer.AddF32(tensor.name, tensor.shape, values);
    }
    dir_.Write("model.safetensors", writer.Bytes());
    return Transformer::Load(dir_.path(), kernels::Stream::Cpu(1));
  }

  tests::TempDir dir_;
  std::vector<Tensor> tensors_;
};

TEST_F(ModelLoadTest, LoadsAndCountsItsWeights) {
  const auto model = Load();
  ASSERT_THAT(model, IsOk());
  int64_t n = 0;
  for (const Tensor& tensor : tensors_) {
    n += tensor.shape.size() == 1 ? tensor.shape[0] : tensor.shape[0] * tensor.shape[1];
  }
  EXPECT_GE((*model)->weight_bytes(), n * sizeof(float));
  EXPECT_FALSE((*model)->fingerprint().IsZero());
}

TEST_F(ModelLoadTest, EveryTensorIsNeeded) {
  const std::vector<Tensor> all = tensors_;
  for (size_t i = 0; i < all.size(); ++i) {
    tensors_ = all;
    tensors_.erase(tensors_.begin() + static_cast<ptrdiff_t>(i));
    EXPECT_THAT(Load(),
                StatusIs(StatusCode::kInvalidArgument, "tensor " + all[i].name + " is missing"));
  }
}

TEST_F(ModelLoadTest, EveryShapeIsChecked) {
  const std::vector<Tensor> all = tensors_;
  for (size_t i = 0; i < all.size(); ++i) {
    tensors_ = all;
    tensors_[i].shape[0] += 1;
    EXPECT_THAT(Load(),
                StatusIs(StatusCode::kInvalidArgument, "tensor " + all[i].name + ": shape is ["));
  }
}

TEST_F(ModelLoadTest, EveryTypeIsChecked) {
  for (const Tensor& wrong : tensors_) {
    SafetensorsWriter writer;
    for (const Tensor& tensor : tensors_) {
      int64_t n = 1;
      for (const int64_t dim : tensor.shape) n *= dim;
      writer.Add(tensor.name, tensor.name == wrong.name ? "I32" : "F32", tensor.shape,
                 std::string(n * 4, '\0'));
    }
    dir_.Write("model.safetensors", writer.Bytes());
    EXPECT_THAT(Transformer::Load(dir_.path(), kernels::Stream::Cpu(1)),
                StatusIs(StatusCode::kInvalidArgument, "tensor " + wrong.name + ": dtype is I32"));
  }
}

TEST_F(ModelLoadTest, UnknownTensorIsRefusedByName) {
  tensors_.push_back({"model.layers.1.input_layernorm.weight", {4}});
  EXPECT_THAT(Load(), StatusIs(StatusCode::kInvalidArgument,
                               "tensor model.layers.1.input_layernorm.weight is not part of"));
}

TEST_F(ModelLoadTest, StoredRotaryFrequenciesOfOldCheckpointsAreAllowed) {
  tensors_.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {2}});
  EXPECT_THAT(Load(), IsOk());
}

TEST_F(ModelLoadTest, TiedHeadMayBeStoredButNotDiffer) {
  WriteConfig(R"("tie_word_embeddings":true,)");
  EXPECT_THAT(Load(), IsOk());
  // The same numbers under another name and place: now the head says something else.
  tensors_[0].shape = {5, 4};
  SafetensorsWriter writer;
  for (const Tensor& tensor : tensors_) {
    int64_t n = 1;
    for (const int64_t dim : tensor.shape) n *= dim;
    writer.AddF32(tensor.name, tensor.shape,
                  std::vector<float>(n, tensor.name == "lm_head.weight" ? 1.0f : 0.5f));
  }
  dir_.Write("model.safetensors", writer.Bytes());
  EXPECT_THAT(Transformer::Load(dir_.path(), kernels::Stream::Cpu(1)),
              StatusIs(StatusCode::kInvalidArgument, "lm_head.weight differs"));
}

TEST_F(ModelLoadTest, FingerprintFollowsWeightsAndFunctionButNotSpecialIds) {
  const auto fingerprint = [&](float value = 0) { return (*Load(value))->fingerprint(); };
  const base::Fingerprint first = fingerprint();
  EXPECT_EQ(fingerprint(), first);
  WriteConfig(R"("eos_token_id":2,"transformers_version":"4.0",)");
  EXPECT_EQ(fingerprint(), first);
  EXPECT_NE(fingerprint(0.25f), first);
  WriteConfig(R"("rope_theta":5000.0,)");
  EXPECT_NE(fingerprint(), first);
}

TEST_F(ModelLoadTest, MissingFilesAreNotFound) {
  EXPECT_THAT(Transformer::Load(dir_.path(), kernels::Stream::Cpu(1)),
              StatusIs(StatusCode::kNotFound, "neither model.safetensors nor"));
  EXPECT_THAT(Transformer::Load(dir_.File("nowhere"), kernels::Stream::Cpu(1)),
              StatusIs(StatusCode::kNotFound, "nowhere/config.json"));
}

TEST_F(ModelLoadTest, TruncatedWeightsAreDataLoss) {
  ASSERT_THAT(Load(), IsOk());
  const std::string path = dir_.File("model.safetensors");
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 4);
  EXPECT_THAT(Transformer::Load(dir_.path(), kernels::Stream::Cpu(1)),
              StatusIs(StatusCode::kDataLoss, "model.safetensors: tensor"));
}

TEST_F(ModelLoadTest, DecoderRefusesBadIdsAndStaysAsItWas) {
  const auto model = Load();
  ASSERT_THAT(model, IsOk());
  ExactDecoder decoder(**model, kernels::Stream::Cpu(1));
  const std::vector<int32_t> good = {0, 4, 2};
  const auto append = [&](std::vector<int32_t> ids, int64_t n = 1) {
    return decoder.Append(ids, n);
  };
  EXPECT_THAT(append({}), StatusIs(StatusCode::kInvalidArgument, "no token ids"));
  EXPECT_THAT(append({1, 5}),
              StatusIs(StatusCode::kInvalidArgument, "token id 5 at place 1 is outside 0 .. 4"));
  EXPECT_THAT(append({-1}), StatusIs(StatusCode::kInvalidArgument, "token id -1"));
  EXPECT_THAT(append({1, 2}, 3), StatusIs(StatusCode::kInvalidArgument, "must be within 1 .. 2"));
  EXPECT_THAT(append(std::vector<int32_t>(9, 1)),
              StatusIs(StatusCode::kInvalidArgument, "9 tokens, the model has 8 positions"));
  EXPECT_EQ(decoder.n_tokens(), 0);
  ASSERT_THAT(append(good, 3), IsOk());
  EXPECT_EQ(decoder.n_tokens(), 3);
  EXPECT_THAT(append(std::vector<int32_t>(6, 1)),
              StatusIs(StatusCode::kInvalidArgument, "9 tokens, the model has 8 positions"));
}

TEST_F(ModelLoadTest, WeightsThatAreNotFiniteAreRefusedByName) {
  EXPECT_THAT(Load(std::numeric_limits<float>::quiet_NaN()),
              StatusIs(StatusCode::kInvalidArgument, "tensor lm_head.weight: element 0 of [5, 4]"));
}

TEST(DeviceFitTest, WeightsThatLeaveNoRoomForSessionsAreRefusedWithWhatWouldFit) {
  constexpr size_t kGib = size_t{1} << 30;
  EXPECT_THAT(CheckWeightsFit("cuda:0 X", 15 * kGib, 79 * kGib), IsOk());
  EXPECT_THAT(CheckWeightsFit("cuda:0 X", 71 * kGib, 79 * kGib), IsOk());
  EXPECT_THAT(CheckWeightsFit("cuda:0 X", 131 * kGib, 79 * kGib),
              StatusIs(StatusCode::kResourceExhausted,
                       "cuda:0 X has 79.0 GiB free, the weights need 131 GiB and sessions a tenth "
                       "of it; weights of 71.1 GiB would fit, 38.2 billion numbers"));
  EXPECT_THAT(CheckWeightsFit("cuda:0 X", 1, 0), StatusIs(StatusCode::kResourceExhausted, "0 B"));
}

}  // namespace
}  // namespace lexico::worker

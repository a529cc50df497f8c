// A configuration is understood completely or refused by the name of the field.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "worker/model/config.h"

namespace lexico::worker {
namespace {

using absl::StatusCode;
using Json = nlohmann::json;
using tests::IsOk;
using tests::StatusIs;

Json Llama() {
  return Json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 100,
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "hidden_act": "silu", "attention_bias": false, "mlp_bias": false,
    "rope_theta": 500000.0, "rope_scaling": null, "tie_word_embeddings": true,
    "bos_token_id": 0, "eos_token_id": [1, 5], "torch_dtype": "bfloat16"})");
}

absl::StatusOr<ModelConfig> Parse(const Json& config, std::string_view generation = "") {
  return ParseModelConfig("dir", config.dump(), generation);
}
// Llama() with a patch (RFC 7386: null removes, which is also what absent fields look like).
absl::StatusOr<ModelConfig> ParsePatched(const std::string& patch) {
  Json config = Llama();
  config.merge_patch(Json::parse(patch));
  return Parse(config);
}

TEST(ModelConfigTest, ReadsALlama) {
  const auto config = Parse(Llama());
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->architecture, "LlamaForCausalLM");
  EXPECT_EQ(config->n_layers, 3);
  EXPECT_EQ(config->n_heads, 4);
  EXPECT_EQ(config->n_kv_heads, 2);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->hidden_dim, 32);
  EXPECT_EQ(config->ffn_dim, 48);
  EXPECT_EQ(config->vocab_size, 100);
  EXPECT_EQ(config->max_positions, 64);
  EXPECT_FLOAT_EQ(config->rms_norm_epsilon, 1e-5f);
  EXPECT_EQ(config->rope.theta, 500000.0);
  EXPECT_EQ(config->rope.scaling, RopeConfig::Scaling::kNone);
  EXPECT_TRUE(config->tie_word_embeddings);
  EXPECT_FALSE(config->qkv_bias);
  EXPECT_EQ(config->bos_id, 0);
  EXPECT_EQ(config->eos_ids, (std::vector<int32_t>{1, 5}));
  EXPECT_EQ(config->dtype, "bfloat16");
  EXPECT_EQ(config->fp16_kv_bytes_per_token(), 3u * 2 * 16 * 2 * 2);
}

TEST(ModelConfigTest, AbsentFieldsTakeTheDefaultsOfTransformers) {
  const auto config = ParsePatched(
      R"({"num_key_value_heads":null,"head_dim":null,"rope_theta":null,"tie_word_embeddings":null,
          "bos_token_id":null,"eos_token_id":null,"torch_dtype":null})");
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->n_kv_heads, 4);
  EXPECT_EQ(config->head_dim, 8);
  EXPECT_EQ(config->rope.theta, 10000.0);
  EXPECT_FALSE(config->tie_word_embeddings);
  EXPECT_FALSE(config->bos_id.has_value());
  EXPECT_TRUE(config->eos_ids.empty());
}

TEST(ModelConfigTest, GenerationConfigWinsForSpecialIds) {
  const auto config = Parse(Llama(), R"({"bos_token_id":7,"eos_token_id":9,"do_sample":false})");
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->bos_id, 7);
  EXPECT_EQ(config->eos_ids, std::vector<int32_t>{9});
  EXPECT_THAT(Parse(Llama(), R"({"eos_token_id":100})"),
              StatusIs(StatusCode::kInvalidArgument,
                       "dir/generation_config.json: eos_token_id is 100, must be ids in 0 .. 99"));
}

TEST(ModelConfigTest, RopeSpellingsOldAndNewMeanTheSame) {
  const std::string llama3 =
      R"({"factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
          "original_max_position_embeddings":32)";
  const auto old_style = ParsePatched("{\"rope_scaling\":" + llama3 + R"(,"type":"llama3"}})");
  const auto new_style = ParsePatched("{\"rope_theta\":null,\"rope_parameters\":" + llama3 +
                                      R"(,"rope_type":"llama3","rope_theta":500000.0}})");
  ASSERT_THAT(old_style, IsOk());
  ASSERT_THAT(new_style, IsOk());
  EXPECT_EQ(old_style->rope.scaling, RopeConfig::Scaling::kLlama3);
  EXPECT_EQ(old_style->rope.original_max_positions, 32);
  EXPECT_EQ(old_style->rope, new_style->rope);
}

TEST(ModelConfigTest, InverseFrequenciesFollowTheFormulas) {
  ModelConfig config;
  config.head_dim = 8;
  config.rope.theta = 10000;
  EXPECT_EQ(RopeInverseFrequencies(config).size(), 4u);
  EXPECT_DOUBLE_EQ(RopeInverseFrequencies(config)[0], 1.0);
  EXPECT_NEAR(RopeInverseFrequencies(config)[1], 0.1, 1e-15);
  config.rope.scaling = RopeConfig::Scaling::kLinear;
  config.rope.factor = 4;
  EXPECT_NEAR(RopeInverseFrequencies(config)[1], 0.025, 1e-15);
  // Wavelengths 6.3, 63, 628, 6283 against 100 / 4 and 100 / 1: kept, blended, divided, divided.
  config.rope.scaling = RopeConfig::Scaling::kLlama3;
  config.rope.original_max_positions = 100;
  const std::vector<double> f = RopeInverseFrequencies(config);
  EXPECT_DOUBLE_EQ(f[0], 1.0);
  const double smooth = (100 * 0.1 / (2 * 3.14159265358979323846) - 1) / 3;
  EXPECT_NEAR(f[1], (1 - smooth) * 0.1 / 4 + smooth * 0.1, 1e-15);
  EXPECT_NEAR(f[2], 0.01 / 4, 1e-15);
  EXPECT_NEAR(f[3], 0.001 / 4, 1e-15);
}

TEST(ModelConfigTest, QwenHasBiasesAndIgnoresAWindowThatIsSwitchedOff) {
  const auto config = ParsePatched(
      R"({"architectures":["Qwen2ForCausalLM"],"model_type":"qwen2","sliding_window":4096,
          "use_sliding_window":false})");
  ASSERT_THAT(config, IsOk());
  EXPECT_TRUE(config->qkv_bias);
}

TEST(ModelConfigTest, MistralNeedsSlidingWindowToBeNull) {
  Json config = Llama();
  config["architectures"] = {"MistralForCausalLM"};
  config["model_type"] = "mistral";
  EXPECT_THAT(Parse(config), StatusIs(StatusCode::kInvalidArgument, "sliding_window is missing"));
  config["sliding_window"] = 4096;
  EXPECT_THAT(Parse(config), StatusIs(StatusCode::kInvalidArgument, "sliding_window is 4096"));
  config["sliding_window"] = nullptr;
  EXPECT_THAT(Parse(config), IsOk());
}

struct BadField {
  const char* patch;
  const char* message;
};
class ModelConfigRefusalTest : public testing::TestWithParam<BadField> {};

TEST_P(ModelConfigRefusalTest, NamesTheFieldAndBothValues) {
  EXPECT_THAT(ParsePatched(GetParam().patch),
              StatusIs(StatusCode::kInvalidArgument, GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Fields, ModelConfigRefusalTest,
    testing::Values(
        BadField{R"({"architectures":["GPT2LMHeadModel"]})",
                 "architectures is [\"GPT2LMHeadModel\"], must be one of LlamaForCausalLM"},
        BadField{R"({"architectures":null})", "architectures is missing"},
        BadField{R"({"architectures":[]})", "architectures is []"},
        BadField{R"({"architectures":"LlamaForCausalLM"})", "must be a list of one name"},
        BadField{R"({"model_type":"qwen2"})", "model_type is \"qwen2\", must be \"llama\""},
        BadField{R"({"attention_bias":true})", "attention_bias is true, must be false"},
        BadField{R"({"mlp_bias":true})", "mlp_bias is true, must be false"},
        BadField{R"({"hidden_act":"gelu"})", "hidden_act is \"gelu\", must be \"silu\""},
        BadField{R"({"sliding_window":128})", "sliding_window is 128, must be null"},
        BadField{R"({"use_sliding_window":true})", "use_sliding_window is true"},
        BadField{R"({"layer_types":["full_attention","sliding_attention"]})", "layer_types is"},
        BadField{R"({"partial_rotary_factor":0.5})", "partial_rotary_factor is 0.5, must be 1.0"},
        BadField{R"({"quantization_config":{"bits":4}})", "quantization_config is {\"bits\":4}"},
        BadField{R"({"final_logit_softcapping":30.0})", "final_logit_softcapping is 30.0"},
        BadField{R"({"num_local_experts":8})", "num_local_experts is 8"},
        BadField{R"({"num_attention_heads":3})",
                 "num_key_value_heads is 2, must be a divisor of num_attention_heads, 3"},
        BadField{R"({"num_attention_heads":0})", "num_attention_heads is 0"},
        BadField{R"({"num_attention_heads":4.0})", "num_attention_heads is 4.0"},
        BadField{R"({"num_key_value_heads":-1})", "num_key_value_heads is -1"},
        BadField{R"({"head_dim":15})", "head_dim is 15, must be even"},
        BadField{R"({"head_dim":512})", "head_dim is 512, must be an integer in 2 .. 256"},
        BadField{R"({"head_dim":null,"hidden_size":30})",
                 "hidden_size is 30, must be a multiple of num_attention_heads, 4"},
        BadField{R"({"head_dim":null,"hidden_size":4096})", "at most 256 per head"},
        BadField{R"({"vocab_size":null})", "vocab_size is missing"},
        BadField{R"({"vocab_size":"many"})", "vocab_size is \"many\", must be an integer in 1 .."},
        BadField{R"({"vocab_size":18446744073709551615})", "vocab_size is 18446744073709551615"},
        BadField{R"({"num_hidden_layers":1000})", "num_hidden_layers is 1000"},
        BadField{R"({"hidden_size":null})", "hidden_size is missing"},
        BadField{R"({"intermediate_size":0})", "intermediate_size is 0"},
        BadField{R"({"max_position_embeddings":null})", "max_position_embeddings is missing"},
        BadField{R"({"rms_norm_eps":null})", "rms_norm_eps is missing"},
        BadField{R"({"rms_norm_eps":-1e-5})", "rms_norm_eps is -1e-05"},
        BadField{R"({"rope_theta":0.5})", "rope_theta is 0.5"},
        BadField{R"({"rope_scaling":"linear"})", "rope_scaling is \"linear\", must be an object"},
        BadField{R"({"rope_scaling":{"rope_type":"yarn","factor":4.0}})", "rope_type is \"yarn\""},
        BadField{R"({"rope_scaling":{"type":"dynamic","factor":4.0}})", "rope_type is \"dynamic\""},
        BadField{R"({"rope_scaling":{"rope_type":"linear"}})", "rope_scaling: factor is missing"},
        BadField{R"({"rope_scaling":{"rope_type":"linear","factor":0.5}})", "factor is 0.5"},
        BadField{R"({"rope_scaling":{"rope_type":"llama3","factor":8.0}})",
                 "low_freq_factor is missing"},
        BadField{R"({"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":4.0,
                    "high_freq_factor":4.0,"original_max_position_embeddings":8192}})",
                 "high_freq_factor is 4.0, must be above low_freq_factor, 4"},
        BadField{R"({"rope_parameters":{"rope_type":"default","rope_theta":10000.0}})",
                 "rope_theta is 500000.0, must be 10000 as in rope_parameters"},
        BadField{R"({"rope_theta":null,"rope_parameters":{"full_attention":{"rope_theta":1e4}}})",
                 "full_attention is"},
        BadField{R"({"rope_scaling":{"rope_type":"linear","factor":2.0},
                    "rope_parameters":{"rope_type":"linear","factor":4.0}})",
                 "must be absent where rope_parameters is given"},
        BadField{R"({"rope_parameters":{"rope_type":"default","partial_rotary_factor":0.5}})",
                 "partial_rotary_factor is 0.5"},
        BadField{R"({"tie_word_embeddings":"yes"})", "tie_word_embeddings is \"yes\""},
        BadField{R"({"bos_token_id":100})", "bos_token_id is 100, must be an integer in 0 .. 99"},
        BadField{R"({"eos_token_id":[1,-2]})", "eos_token_id is [1,-2]"},
        BadField{R"({"eos_token_id":"</s>"})", "eos_token_id is"},
        BadField{R"({"torch_dtype":"float8_e4m3fn"})", "torch_dtype is \"float8_e4m3fn\""},
        BadField{R"({"dtype":16})", "dtype is 16"}));

TEST(ModelConfigTest, RefusesWhatIsNotOneJsonObject) {
  EXPECT_THAT(ParseModelConfig("dir", "{", ""), StatusIs(StatusCode::kDataLoss, "not JSON"));
  EXPECT_THAT(ParseModelConfig("dir", "", ""), StatusIs(StatusCode::kDataLoss, "not JSON"));
  EXPECT_THAT(ParseModelConfig("dir", "[]", ""),
              StatusIs(StatusCode::kInvalidArgument, "is array, must be a JSON object"));
  EXPECT_THAT(ParseModelConfig("dir", R"({"vocab_size":1,"vocab_size":2})", ""),
              StatusIs(StatusCode::kInvalidArgument, "key \"vocab_size\" appears twice"));
  EXPECT_THAT(ParseModelConfig("dir", "{\"a\":" + std::string(100000, '['), ""),
              StatusIs(StatusCode::kInvalidArgument, "nested deeper than 32 levels"));
  EXPECT_THAT(ParseModelConfig("dir", "{\"\xff\":1}", ""),
              StatusIs(StatusCode::kDataLoss, "not JSON"));
}

TEST(ModelConfigTest, ReadsAFolderWithAndWithoutGenerationConfig) {
  const tests::TempDir dir;
  EXPECT_THAT(ReadModelConfig(dir.path()), StatusIs(StatusCode::kNotFound, "config.json"));
  dir.Write("config.json", Llama().dump());
  ASSERT_THAT(ReadModelConfig(dir.path()), IsOk());
  EXPECT_EQ(ReadModelConfig(dir.path())->bos_id, 0);
  dir.Write("generation_config.json", R"({"bos_token_id":3})");
  EXPECT_EQ(ReadModelConfig(dir.path())->bos_id, 3);
  dir.Write("config.json", std::string((1 << 20) + 1, ' '));
  EXPECT_THAT(ReadModelConfig(dir.path()),
              StatusIs(StatusCode::kInvalidArgument, "1048577 bytes, more than the 1048576"));
}

}  // namespace
}  // namespace lexico::worker

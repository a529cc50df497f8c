#include "worker/model/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numbers>

#include "absl/status/status.h"
#include "proto/base/limits.h"
#include "proto/base/read_file.h"
#include "proto/base/status.h"
#include "worker/model/config_reader.h"
#include "worker/model/json_file.h"

namespace lexico::worker {
namespace {

using Json = nlohmann::json;

// What sliding_window means. We attend to everything, so only its absence is supported.
enum class WindowRule {
  kNullOrAbsent,  // the architecture has none
  kNull,          // absent means a default of transformers, 4096
  kSwitched,      // counts only where use_sliding_window is true, which is refused
};

// All that differs between the supported architectures.
struct Architecture {
  const char* name;
  const char* model_type;
  bool qkv_bias;           // biases on the Q, K and V products
  bool kv_heads_optional;  // absent num_key_value_heads means num_attention_heads (Llama 1)
  WindowRule window;
};
constexpr Architecture kArchitectures[] = {
    {"LlamaForCausalLM", "llama", false, true, WindowRule::kNullOrAbsent},
    {"MistralForCausalLM", "mistral", false, false, WindowRule::kNull},
    {"Qwen2ForCausalLM", "qwen2", true, false, WindowRule::kSwitched},
};

absl::StatusOr<const Architecture*> FindArchitecture(const ConfigReader& config) {
  const Json* names = config.Get("architectures");
  if (names == nullptr || !names->is_array() || names->size() != 1 || !(*names)[0].is_string()) {
    return config.Refuse("architectures", "a list of one name");
  }
  for (const Architecture& known : kArchitectures) {
    if ((*names)[0] != known.name) continue;
    const Json* type = config.Get("model_type");
    if (type != nullptr && *type != known.model_type) {
      return config.Refuse("model_type",
                           fmt::format("\"{}\" for {}", known.model_type, known.name));
    }
    return &known;
  }
  return config.Refuse("architectures", "one of " + SupportedArchitectures());
}

// Fields that change the function and that no supported architecture needs: only the value that
// switches them off is accepted.
absl::Status RefuseUnsupported(const ConfigReader& config, const Architecture& architecture) {
  static constexpr struct {
    const char* field;
    const char* off;  // JSON; null and an absent field are always off
  } kSwitches[] = {
      {"attention_bias", "false"},
      {"mlp_bias", "false"},
      {"use_sliding_window", "false"},
      {"partial_rotary_factor", "1.0"},
      {"quantization_config", "null"},
      {"is_encoder_decoder", "false"},
      {"add_cross_attention", "false"},
      {"attn_logit_softcapping", "null"},
      {"final_logit_softcapping", "null"},
      {"num_local_experts", "null"},
      {"use_qk_norm", "false"},
  };
  for (const auto& known : kSwitches) {
    const Json* value = config.Get(known.field);
    if (value != nullptr && *value != Json::parse(known.off)) {
      return config.Refuse(known.field, known.off);
    }
  }
  const Json* act = config.Get("hidden_act");
  if (act != nullptr && *act != "silu" && *act != "swish") {
    return config.Refuse("hidden_act", "\"silu\"");
  }
  const bool window_off =
      architecture.window == WindowRule::kSwitched ||
      (config.Get("sliding_window") == nullptr &&
       (architecture.window == WindowRule::kNullOrAbsent || config.Contains("sliding_window")));
  if (!window_off) return config.Refuse("sliding_window", "null");
  if (const Json* types = config.Get("layer_types"); types != nullptr) {
    const bool all_full =
        types->is_array() && std::all_of(types->begin(), types->end(),
                                         [](const Json& type) { return type == "full_attention"; });
    if (!all_full) return config.Refuse("layer_types", "\"full_attention\" for every layer");
  }
  return absl::OkStatus();
}

absl::Status ReadShape(const ConfigReader& config, const Architecture& architecture,
                       ModelConfig* model) {
  LEXICO_RETURN_IF_ERROR(config.Int("num_hidden_layers", 1, base::kLayersMax, &model->n_layers));
  LEXICO_RETURN_IF_ERROR(config.Int("num_attention_heads", 1, base::kHeadsMax, &model->n_heads));
  LEXICO_RETURN_IF_ERROR(config.Int("hidden_size", 1, base::kHiddenDimMax, &model->hidden_dim));
  LEXICO_RETURN_IF_ERROR(config.Int("intermediate_size", 1, base::kFfnDimMax, &model->ffn_dim));
  LEXICO_RETURN_IF_ERROR(config.Int("vocab_size", 1, base::kVocabMax, &model->vocab_size));
  LEXICO_RETURN_IF_ERROR(
      config.Int("max_position_embeddings", 1, base::kPositionsMax, &model->max_positions));

  model->n_kv_heads = model->n_heads;
  if (config.Get("num_key_value_heads") != nullptr || !architecture.kv_heads_optional) {
    LEXICO_RETURN_IF_ERROR(
        config.Int("num_key_value_heads", 1, base::kHeadsMax, &model->n_kv_heads));
  }
  if (model->n_heads % model->n_kv_heads != 0) {
    return config.Refuse("num_key_value_heads",
                         fmt::format("a divisor of num_attention_heads, {}", model->n_heads));
  }
  if (config.Get("head_dim") != nullptr) {
    LEXICO_RETURN_IF_ERROR(config.Int("head_dim", 2, base::kHeadDimMax, &model->head_dim));
  } else {
    model->head_dim = model->hidden_dim / model->n_heads;
    if (model->hidden_dim % model->n_heads != 0) {
      return config.Refuse(
          "hidden_size",
          fmt::format("a multiple of num_attention_heads, {}, where head_dim is not given",
                      model->n_heads));
    }
    if (model->head_dim > base::kHeadDimMax) {
      return config.Refuse("hidden_size", fmt::format("at most {} per head, {} heads",
                                                      base::kHeadDimMax, model->n_heads));
    }
  }
  if (model->head_dim % 2 != 0) {
    return absl::InvalidArgumentError(fmt::format(
        "{}: head_dim is {}, must be even for rotary embeddings", config.name(), model->head_dim));
  }
  return absl::OkStatus();
}

// `scaling` is rope_scaling, or rope_parameters of transformers 5, which also holds rope_theta.
absl::Status ReadRopeScaling(const ConfigReader& scaling, RopeConfig* rope) {
  std::string type = "default";
  // "type" is the name before transformers 4.43.
  LEXICO_RETURN_IF_ERROR(scaling.OptionalString("type", &type));
  LEXICO_RETURN_IF_ERROR(scaling.OptionalString("rope_type", &type));
  if (type == "default") {
    rope->scaling = RopeConfig::Scaling::kNone;
    return absl::OkStatus();
  }
  if (type != "linear" && type != "llama3") {
    return absl::InvalidArgumentError(fmt::format(
        "{}: rope_type is \"{}\", supported are default, linear and llama3", scaling.name(), type));
  }
  LEXICO_RETURN_IF_ERROR(scaling.Double("factor", 1.0, 1e6, &rope->factor));
  rope->scaling = RopeConfig::Scaling::kLinear;
  if (type == "linear") return absl::OkStatus();

  rope->scaling = RopeConfig::Scaling::kLlama3;
  int original = 0;
  LEXICO_RETURN_IF_ERROR(scaling.Double("low_freq_factor", 1e-3, 1e6, &rope->low_freq_factor));
  LEXICO_RETURN_IF_ERROR(scaling.Double("high_freq_factor", 1e-3, 1e6, &rope->high_freq_factor));
  LEXICO_RETURN_IF_ERROR(
      scaling.Int("original_max_position_embeddings", 1, base::kPositionsMax, &original));
  rope->original_max_positions = original;
  if (!(rope->high_freq_factor > rope->low_freq_factor)) {
    return scaling.Refuse("high_freq_factor",
                          fmt::format("above low_freq_factor, {}", rope->low_freq_factor));
  }
  return absl::OkStatus();
}

absl::Status ReadRope(const ConfigReader& config, RopeConfig* rope) {
  constexpr double kThetaMax = 1e12;
  if (config.Get("rope_theta") != nullptr) {
    LEXICO_RETURN_IF_ERROR(config.Double("rope_theta", 1.0, kThetaMax, &rope->theta));
  }
  const Json* scaling = config.Get("rope_scaling");
  const Json* parameters = config.Get("rope_parameters");
  if (scaling != nullptr && parameters != nullptr && *scaling != *parameters) {
    return config.Refuse("rope_scaling", "absent where rope_parameters is given");
  }
  for (const char* field : {"rope_scaling", "rope_parameters"}) {
    const Json* value = config.Get(field);
    if (value == nullptr) continue;
    if (!value->is_object()) return config.Refuse(field, "an object");
    const ConfigReader nested(config.name() + ": " + field, *value);
    LEXICO_RETURN_IF_ERROR(ReadRopeScaling(nested, rope));
    // One set per layer type (Gemma 3) nests objects here.
    for (const auto& [key, inner] : value->items()) {
      if (inner.is_structured()) return nested.Refuse(key.c_str(), "a number or a name");
    }
    const Json* partial = nested.Get("partial_rotary_factor");
    if (partial != nullptr && *partial != 1.0) return nested.Refuse("partial_rotary_factor", "1.0");
    if (nested.Get("rope_theta") == nullptr) continue;
    LEXICO_RETURN_IF_ERROR(nested.Double("rope_theta", 1.0, kThetaMax, &rope->theta));
    const Json* outer = config.Get("rope_theta");
    if (outer != nullptr && *outer != *nested.Get("rope_theta")) {
      return config.Refuse("rope_theta", fmt::format("{} as in {}", rope->theta, field));
    }
  }
  return absl::OkStatus();
}

// bos and eos of one of the two files; what is absent stays.
absl::Status ReadSpecialIds(const ConfigReader& config, ModelConfig* model) {
  if (config.Get("bos_token_id") != nullptr) {
    int bos = 0;
    LEXICO_RETURN_IF_ERROR(config.Int("bos_token_id", 0, model->vocab_size - 1, &bos));
    model->bos_id = bos;
  }
  const Json* eos = config.Get("eos_token_id");
  if (eos == nullptr) return absl::OkStatus();
  const Json list = eos->is_array() ? *eos : Json::array({*eos});
  model->eos_ids.clear();
  for (const Json& id : list) {
    if (!id.is_number_integer() || id < 0 || id >= model->vocab_size) {
      return config.Refuse("eos_token_id", fmt::format("ids in 0 .. {}", model->vocab_size - 1));
    }
    const int32_t value = id.get<int32_t>();
    if (std::find(model->eos_ids.begin(), model->eos_ids.end(), value) == model->eos_ids.end()) {
      model->eos_ids.push_back(value);
    }
  }
  return absl::OkStatus();
}

absl::Status ReadDType(const ConfigReader& config, ModelConfig* model) {
  // "dtype" since transformers 4.56; older files say "torch_dtype", some say both.
  for (const char* field : {"torch_dtype", "dtype"}) {
    LEXICO_RETURN_IF_ERROR(config.OptionalString(field, &model->dtype));
    if (model->dtype != "" && model->dtype != "bfloat16" && model->dtype != "float16" &&
        model->dtype != "float32") {
      return config.Refuse(field, "bfloat16, float16 or float32");
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string SupportedArchitectures() {
  std::string names;
  for (const Architecture& known : kArchitectures) {
    if (!names.empty()) names += ", ";
    names += known.name;
  }
  return names;
}

std::vector<double> RopeInverseFrequencies(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  std::vector<double> frequencies(config.head_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double f = std::pow(rope.theta, -2.0 * static_cast<double>(i) / config.head_dim);
    switch (rope.scaling) {
      case RopeConfig::Scaling::kNone:
        break;
      case RopeConfig::Scaling::kLinear:
        f /= rope.factor;
        break;
      case RopeConfig::Scaling::kLlama3: {
        const double turns = rope.original_max_positions * f / (2 * std::numbers::pi);
        const double blend = std::clamp(
            (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0.0,
            1.0);
        f = (1 - blend) * f / rope.factor + blend * f;
        break;
      }
    }
    frequencies[i] = f;
  }
  return frequencies;
}

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view name, std::string_view config_text,
                                             std::string_view generation_text) {
  const std::string config_name = fmt::format("{}/config.json", name);
  LEXICO_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(config_name, config_text));
  const ConfigReader config(config_name, json);
  LEXICO_ASSIGN_OR_RETURN(const Architecture* architecture, FindArchitecture(config));

  ModelConfig model;
  model.architecture = architecture->name;
  model.qkv_bias = architecture->qkv_bias;
  LEXICO_RETURN_IF_ERROR(RefuseUnsupported(config, *architecture));
  LEXICO_RETURN_IF_ERROR(ReadShape(config, *architecture, &model));
  double epsilon = 0;
  LEXICO_RETURN_IF_ERROR(config.Double("rms_norm_eps", 0.0, 1.0, &epsilon));
  model.rms_norm_epsilon = static_cast<float>(epsilon);
  LEXICO_RETURN_IF_ERROR(ReadRope(config, &model.rope));
  LEXICO_RETURN_IF_ERROR(config.OptionalBool("tie_word_embeddings", &model.tie_word_embeddings));
  LEXICO_RETURN_IF_ERROR(ReadDType(config, &model));
  LEXICO_RETURN_IF_ERROR(ReadSpecialIds(config, &model));
  if (generation_text.empty()) return model;

  const std::string generation_name = fmt::format("{}/generation_config.json", name);
  LEXICO_ASSIGN_OR_RETURN(const Json generation, ParseJsonObject(generation_name, generation_text));
  LEXICO_RETURN_IF_ERROR(ReadSpecialIds(ConfigReader(generation_name, generation), &model));
  return model;
}

absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& model_dir) {
  const std::filesystem::path dir(model_dir);
  LEXICO_ASSIGN_OR_RETURN(
      const std::string config,
      base::ReadTextFile((dir / "config.json").string(), base::kConfigBytesMax));
  auto generation =
      base::ReadTextFile((dir / "generation_config.json").string(), base::kConfigBytesMax);
  if (!generation.ok() && !absl::IsNotFound(generation.status())) return generation.status();
  return ParseModelConfig(model_dir, config, generation.ok() ? *generation : std::string());
}

}  // namespace lexico::worker

#include "tools/random_model/preset.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "proto/base/options.h"

namespace lexico::random_model {
namespace {

constexpr Preset kPresets[] = {
    {"llama-3.1-8b", "LlamaForCausalLM", "llama", 32, 4096, 14336, 32, 8, 128, 128256, 131072, 1e-5,
     5e5, 8, false, false},
    {"llama-3.2-1b", "LlamaForCausalLM", "llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072, 1e-5,
     5e5, 32, true, false},
    {"llama-3.1-70b", "LlamaForCausalLM", "llama", 80, 8192, 28672, 64, 8, 128, 128256, 131072,
     1e-5, 5e5, 8, false, false},
    {"mistral-7b", "MistralForCausalLM", "mistral", 32, 4096, 14336, 32, 8, 128, 32768, 32768, 1e-5,
     1e6, 0, false, false},
    {"qwen2.5-14b", "Qwen2ForCausalLM", "qwen2", 48, 5120, 13824, 40, 8, 128, 152064, 131072, 1e-5,
     1e6, 0, false, true},
};
constexpr int kLlama3OriginalPositions = 8192;

}  // namespace

std::span<const Preset> Presets() { return kPresets; }

absl::StatusOr<Preset> FindPreset(std::string_view name) {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) {
    if (name == preset.name) return preset;
    names.emplace_back(preset.name);
  }
  std::string known;
  for (const std::string& each : names) known += (known.empty() ? "" : ", ") + each;
  const std::string nearest = base::NearestName(name, names);
  return absl::NotFoundError(fmt::format(
      "there is no preset {}{}; known are {}", name,
      nearest.empty() ? std::string() : fmt::format(", did you mean {}?", nearest), known));
}

std::string ConfigJson(const Preset& preset) {
  nlohmann::ordered_json config = {
      {"architectures", {preset.architecture}},
      {"model_type", preset.model_type},
      {"vocab_size", preset.vocab_size},
      {"hidden_size", preset.hidden_dim},
      {"intermediate_size", preset.ffn_dim},
      {"num_hidden_layers", preset.n_layers},
      {"num_attention_heads", preset.n_heads},
      {"num_key_value_heads", preset.n_kv_heads},
      {"head_dim", preset.head_dim},
      {"hidden_act", "silu"},
      {"max_position_embeddings", preset.max_positions},
      {"rms_norm_eps", preset.rms_norm_epsilon},
      {"rope_theta", preset.rope_theta},
      {"tie_word_embeddings", preset.tie_word_embeddings},
      {"torch_dtype", "bfloat16"},
  };
  if (preset.rope_factor > 0) {
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", preset.rope_factor},
                              {"low_freq_factor", 1.0},
                              {"high_freq_factor", 4.0},
                              {"original_max_position_embeddings", kLlama3OriginalPositions}};
  }
  if (std::string_view(preset.model_type) == "mistral") config["sliding_window"] = nullptr;
  if (std::string_view(preset.model_type) == "qwen2") config["use_sliding_window"] = false;
  return config.dump(2) + "\n";
}

std::vector<TensorSpec> TensorsOf(const Preset& preset) {
  const int64_t hidden = preset.hidden_dim;
  const int64_t q_dim = int64_t{preset.n_heads} * preset.head_dim;
  const int64_t kv_dim = int64_t{preset.n_kv_heads} * preset.head_dim;
  const double depth = std::sqrt(2.0 * preset.n_layers);
  std::vector<TensorSpec> tensors;
  const auto norm = [&](const std::string& name) {
    tensors.push_back({.name = name, .shape = {hidden}, .mean = 1});
  };
  const auto matrix = [&](const std::string& name, int64_t n_out, int64_t n_in, double divisor) {
    tensors.push_back({.name = name,
                       .shape = {n_out, n_in},
                       .deviation = 1 / std::sqrt(static_cast<double>(n_in)) / divisor});
  };
  tensors.push_back({.name = "model.embed_tokens.weight",
                     .shape = {preset.vocab_size, hidden},
                     // The head of a tied model: logits of order one.
                     .deviation = 1 / std::sqrt(static_cast<double>(hidden))});
  for (int layer = 0; layer < preset.n_layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    norm(prefix + "input_layernorm.weight");
    for (const auto& [part, n_out] : {std::pair("q", q_dim), {"k", kv_dim}, {"v", kv_dim}}) {
      matrix(fmt::format("{}self_attn.{}_proj.weight", prefix, part), n_out, hidden, 1);
      if (!preset.qkv_bias) continue;
      tensors.push_back({.name = fmt::format("{}self_attn.{}_proj.bias", prefix, part),
                         .shape = {n_out},
                         .deviation = 0.1});
    }
    matrix(prefix + "self_attn.o_proj.weight", hidden, q_dim, depth);
    norm(prefix + "post_attention_layernorm.weight");
    matrix(prefix + "mlp.gate_proj.weight", preset.ffn_dim, hidden, 1);
    matrix(prefix + "mlp.up_proj.weight", preset.ffn_dim, hidden, 1);
    matrix(prefix + "mlp.down_proj.weight", hidden, preset.ffn_dim, depth);
  }
  norm("model.norm.weight");
  if (!preset.tie_word_embeddings) matrix("lm_head.weight", preset.vocab_size, hidden, 1);
  return tensors;
}

}  // namespace lexico::random_model

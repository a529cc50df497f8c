// Shapes of known models, by name: what decides speed and memory, without a checkpoint.
//
// Sources: the config.json of each model's repository on Hugging Face (meta-llama/Llama-3.1-8B,
// Llama-3.2-1B, Llama-3.1-70B, mistralai/Mistral-7B-v0.3, Qwen/Qwen2.5-14B).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace lexico::random_model {

struct Preset {
  const char* name;
  const char* architecture;  // "LlamaForCausalLM"
  const char* model_type;    // "llama"
  int n_layers;
  int hidden_dim;
  int ffn_dim;
  int n_heads;
  int n_kv_heads;
  int head_dim;
  int vocab_size;
  int max_positions;
  double rms_norm_epsilon;
  double rope_theta;
  double rope_factor;  // of "llama3" scaling from 8,192 positions; 0: none
  bool tie_word_embeddings;
  bool qkv_bias;
};

std::span<const Preset> Presets();

// NotFound names the nearest preset and all of them.
absl::StatusOr<Preset> FindPreset(std::string_view name);

// The text of config.json. It names no end token: answers of random weights end by their length.
std::string ConfigJson(const Preset& preset);

// A tensor of the checkpoint and what it is filled with.
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  // Of a normal distribution around `mean`. Matrices: 1 / sqrt(n_in), so that outputs have the
  // scale of inputs; those that add to the residual stream are smaller by sqrt(2 n_layers) (the
  // initialisation of GPT-2), so that it stays of order one through all layers. Norms: 0.
  double deviation = 0;
  double mean = 0;
};
// In the order of the files: embedding, layers, final norm, head (where it is not tied).
std::vector<TensorSpec> TensorsOf(const Preset& preset);

}  // namespace lexico::random_model

// What a model is, read from config.json and generation_config.json of a Hugging Face folder.
//
// Architectures differ in few things, and those stand in one table (kArchitectures in config.cc):
// adding one is a row there, and code here only if it needs a new field. A field that would change
// the function and is not supported is refused by name with the value found and the value
// supported; it is never ignored.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace lexico::worker {

// Rotary embedding: angle of pair i at position p is p * inv_frequency[i].
struct RopeConfig {
  // As config.json spells them: "default", "linear", "llama3". Dynamic and YaRN are refused.
  enum class Scaling { kNone, kLinear, kLlama3 };

  double theta = 10000.0;
  Scaling scaling = Scaling::kNone;
  double factor = 1.0;  // linear and llama3
  // llama3 only.
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_max_positions = 0;

  bool operator==(const RopeConfig&) const = default;
};

struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM"
  int n_layers = 0;
  int n_heads = 0;     // query heads; a multiple of n_kv_heads
  int n_kv_heads = 0;  // key and value heads
  int head_dim = 0;    // even
  int hidden_dim = 0;
  int ffn_dim = 0;
  int vocab_size = 0;
  int max_positions = 0;  // tokens of a sequence, prompt and answer together
  float rms_norm_epsilon = 0;
  RopeConfig rope;
  bool tie_word_embeddings = false;  // lm_head is the embedding table
  bool qkv_bias = false;             // Qwen2
  std::optional<int32_t> bos_id;
  std::vector<int32_t> eos_ids;  // any of them ends an answer; may be empty
  std::string dtype;             // "bfloat16", "float16", "float32" or "" (unsaid); informative

  int group_size() const { return n_heads / n_kv_heads; }
  int64_t q_dim() const { return static_cast<int64_t>(n_heads) * head_dim; }
  int64_t kv_dim() const { return static_cast<int64_t>(n_kv_heads) * head_dim; }
  // The same tokens' keys and values as a dense FP16 cache, per token.
  size_t fp16_kv_bytes_per_token() const { return static_cast<size_t>(n_layers) * kv_dim() * 4; }
};

// [head_dim / 2] angles per position after scaling, in double. Formulas: theta^(-2i/head_dim)
// (RoFormer, arXiv 2104.09864); linear: divided by factor; llama3: frequencies whose wavelength is
// beyond original_max_positions / low_freq_factor divided by factor, those within
// original_max_positions / high_freq_factor kept, a linear blend between (transformers,
// modeling_rope_utils.py, _compute_llama3_parameters).
std::vector<double> RopeInverseFrequencies(const ModelConfig& config);

// From the text of the two files; `generation_text` may be empty. `name` is the folder in messages.
// InvalidArgument names the file, the field and both values.
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view name, std::string_view config_text,
                                             std::string_view generation_text);

// From a folder. NotFound when config.json is absent; generation_config.json is optional, and its
// bos and eos ids win, as in transformers.
absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& model_dir);

// Names of the supported architectures, for messages and help texts: "LlamaForCausalLM, ...".
std::string SupportedArchitectures();

}  // namespace lexico::worker

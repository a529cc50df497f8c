#include "tests/worker/tiny_model.h"

#include <fmt/format.h>

#include <cmath>
#include <random>
#include <vector>

#include "proto/base/check.h"
#include "tests/worker/model_safetensors_writer.h"

namespace lexico::tests {
namespace {

class RandomTensors {
 public:
  explicit RandomTensors(uint64_t seed) : random_(seed) {}

  std::vector<float> Normal(int64_t n, float scale) {
    std::normal_distribution<float> normal(0, scale);
    std::vector<float> values(n);
    for (float& value : values) value = normal(random_);
    return values;
  }
  std::vector<float> UnitRows(int64_t n_rows, int64_t dim) {
    std::vector<float> rows = Normal(n_rows * dim, 1);
    for (int64_t i = 0; i < n_rows; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < dim; ++j) sum += rows[i * dim + j] * rows[i * dim + j];
      for (int64_t j = 0; j < dim; ++j) {
        rows[i * dim + j] = static_cast<float>(rows[i * dim + j] / std::sqrt(sum));
      }
    }
    return rows;
  }

 private:
  std::mt19937_64 random_;
};

std::string Config(const TinyModelOptions& o) {
  return fmt::format(
      R"({{"architectures":["LlamaForCausalLM"],"vocab_size":{},"hidden_size":{},
      "intermediate_size":{},"num_hidden_layers":{},"head_dim":{},"num_attention_heads":{},
      "num_key_value_heads":{},"max_position_embeddings":{},"rms_norm_eps":1e-5,
      "tie_word_embeddings":true,"torch_dtype":"{}","eos_token_id":1}})",
      o.vocab_size, o.hidden_dim, 2 * o.hidden_dim, o.n_layers, o.head_dim, o.n_heads, o.n_kv_heads,
      o.max_positions, o.dtype);
}

std::string Weights(const TinyModelOptions& o) {
  RandomTensors random(o.seed);
  SafetensorsWriter writer;
  const int64_t hidden = o.hidden_dim;
  const int64_t q = static_cast<int64_t>(o.n_heads) * o.head_dim;
  const int64_t kv = static_cast<int64_t>(o.n_kv_heads) * o.head_dim;
  const auto add = [&](const std::string& name, int64_t rows, int64_t columns) {
    writer.AddF32(name, {rows, columns}, random.Normal(rows * columns, o.weight_scale));
  };
  const std::vector<float> ones(hidden, 1.0f);
  writer.AddF32("model.embed_tokens.weight", {o.vocab_size, hidden},
                random.Normal(o.vocab_size * hidden, 1));
  writer.AddF32("model.norm.weight", {hidden}, ones);
  for (int layer = 0; layer < o.n_layers; ++layer) {
    const std::string name = fmt::format("model.layers.{}.", layer);
    writer.AddF32(name + "input_layernorm.weight", {hidden}, ones);
    writer.AddF32(name + "post_attention_layernorm.weight", {hidden}, ones);
    add(name + "self_attn.q_proj.weight", q, hidden);
    add(name + "self_attn.k_proj.weight", kv, hidden);
    add(name + "self_attn.v_proj.weight", kv, hidden);
    add(name + "self_attn.o_proj.weight", hidden, q);
    add(name + "mlp.gate_proj.weight", 2 * hidden, hidden);
    add(name + "mlp.up_proj.weight", 2 * hidden, hidden);
    add(name + "mlp.down_proj.weight", hidden, 2 * hidden);
  }
  return writer.Bytes();
}

std::string Dictionaries(const TinyModelOptions& o) {
  RandomTensors random(o.seed + 1);
  SafetensorsWriter writer;
  for (int layer = 0; layer < o.n_layers; ++layer) {
    for (const char* kind : {"k", "v"}) {
      writer.AddF32(fmt::format("layers.{}.{}", layer, kind), {o.n_atoms, o.head_dim},
                    random.UnitRows(o.n_atoms, o.head_dim));
    }
  }
  return writer.Bytes();
}

}  // namespace

std::vector<worker::ModelRank> MakeTinyModel(const TinyModelOptions& options,
                                             std::span<const kernels::Stream> streams) {
  TempDir dir;
  dir.Write("config.json", Config(options));
  dir.Write("model.safetensors", Weights(options));
  dir.Write("dictionary.safetensors", Dictionaries(options));
  auto ranks = worker::LoadModelRanks(dir.path(), dir.path() + "/dictionary.safetensors", streams);
  if (!ranks.ok()) {
    base::CheckFailed(__FILE__, __LINE__, std::string(ranks.status().message()));
  }
  return *std::move(ranks);
}

}  // namespace lexico::tests

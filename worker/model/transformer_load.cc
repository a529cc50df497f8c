// Transformer::Load: from the files of a model folder to packed matrices.
#include <fmt/format.h>

#include <cstring>
#include <set>

#include "absl/status/status.h"
#include "kernels/api/elementwise.h"
#include "proto/base/status.h"
#include "worker/model/device_fit.h"
#include "worker/model/transformer.h"

namespace lexico::worker {
namespace {

using kernels::MutableTensorView;
using kernels::TensorView;

constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kFinalNorm[] = "model.norm.weight";
constexpr char kHead[] = "lm_head.weight";

std::string LayerName(int layer, std::string_view rest) {
  return fmt::format("model.layers.{}.{}", layer, rest);
}

// The names a checkpoint must have, no more and no fewer.
std::set<std::string> ExpectedNames(const ModelConfig& config) {
  std::set<std::string> names = {kEmbedding, kFinalNorm};
  if (!config.tie_word_embeddings) names.insert(kHead);
  for (int layer = 0; layer < config.n_layers; ++layer) {
    for (const char* rest :
         {"input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.q_proj.weight",
          "self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.o_proj.weight",
          "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"}) {
      names.insert(LayerName(layer, rest));
    }
    if (!config.qkv_bias) continue;
    for (const char* rest :
         {"self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"}) {
      names.insert(LayerName(layer, rest));
    }
  }
  return names;
}

// Old checkpoints store the rotary frequencies, which follow from the config.
bool IsRedundant(std::string_view name) { return name.ends_with(".rotary_emb.inv_freq"); }

absl::Status CheckNames(const ModelConfig& config, const ModelWeights& weights,
                        const std::string& model_dir) {
  const std::set<std::string> expected = ExpectedNames(config);
  for (const std::string& name : expected) {
    if (!weights.Has(name)) {
      return absl::InvalidArgumentError(
          fmt::format("{}: tensor {} is missing, which {} with {} layers needs", model_dir, name,
                      config.architecture, config.n_layers));
    }
  }
  for (const std::string& name : weights.Names()) {
    const bool tied_head = name == kHead && config.tie_word_embeddings;
    if (expected.contains(name) || tied_head || IsRedundant(name)) continue;
    return absl::InvalidArgumentError(
        fmt::format("{}: tensor {} is not part of {} with {} layers; it would be ignored, so the "
                    "model would not be what its files say",
                    model_dir, name, config.architecture, config.n_layers));
  }
  return absl::OkStatus();
}

// Everything of the config that changes keys and values; special ids and dtype names do not.
base::Fingerprint FingerprintOf(const ModelConfig& config, const base::Fingerprint& weights) {
  base::FingerprintBuilder builder;
  builder.Add("lexico model 1").Add(config.architecture);
  for (const int value :
       {config.n_layers, config.n_heads, config.n_kv_heads, config.head_dim, config.hidden_dim,
        config.ffn_dim, config.vocab_size, static_cast<int>(config.rope.scaling),
        static_cast<int>(config.tie_word_embeddings)}) {
    builder.AddInt(static_cast<uint64_t>(value));
  }
  for (const double value :
       {static_cast<double>(config.rms_norm_epsilon), config.rope.theta, config.rope.factor,
        config.rope.low_freq_factor, config.rope.high_freq_factor,
        static_cast<double>(config.rope.original_max_positions)}) {
    builder.AddInt(std::bit_cast<uint64_t>(value));
  }
  return builder.Add(weights.bytes).Finish();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Load(const std::string& model_dir,
                                                               const kernels::Stream& stream) {
  std::unique_ptr<Transformer> model(new Transformer(stream));
  LEXICO_ASSIGN_OR_RETURN(model->config_, ReadModelConfig(model_dir));
  LEXICO_ASSIGN_OR_RETURN(model->weights_, ModelWeights::Open(model_dir));
  LEXICO_RETURN_IF_ERROR(model->LoadWeights(model_dir));
  return model;
}

absl::Status Transformer::LoadWeights(const std::string& model_dir) {
  LEXICO_RETURN_IF_ERROR(CheckNames(config_, weights_, model_dir));
  LEXICO_ASSIGN_OR_RETURN(embedding_,
                          weights_.Find(kEmbedding, {config_.vocab_size, config_.hidden_dim}));
  const bool on_device = stream_.device() != nullptr;
  if (on_device) {
    // A head that is not stored is the embedding once more.
    const size_t head_bytes = weights_.Has(kHead) ? 0 : embedding_.size_bytes();
    LEXICO_RETURN_IF_ERROR(CheckWeightsFit(stream_.device()->name(), weights_.bytes() + head_bytes,
                                           stream_.device()->FreeBytes()));
  }
  // The files are the host's work, and a GPU's stream has one thread.
  const int threads = on_device ? kernels::Stream::Cpu().threads() : stream_.threads();
  LEXICO_RETURN_IF_ERROR(weights_.CheckFinite(threads));
  LEXICO_ASSIGN_OR_RETURN(final_norm_, LoadNorm(kFinalNorm));
  layers_.resize(config_.n_layers);
  for (int layer = 0; layer < config_.n_layers; ++layer) {
    LEXICO_RETURN_IF_ERROR(LoadLayer(layer, &layers_[layer]));
  }
  LEXICO_RETURN_IF_ERROR(LoadHead());
  LEXICO_RETURN_IF_ERROR(PlaceEmbedding());
  const std::vector<double> frequencies = RopeInverseFrequencies(config_);
  LEXICO_ASSIGN_OR_RETURN(inv_frequency_,
                          Place(frequencies.data(), frequencies.size() * sizeof(double)));
  fingerprint_ = FingerprintOf(config_, weights_.ComputeFingerprint(threads));
  return absl::OkStatus();
}

absl::Status Transformer::LoadLayer(int index, Layer* layer) {
  const int64_t hidden = config_.hidden_dim;
  const auto matrix = [&](std::string_view name, int64_t n_out, int64_t n_in) {
    return weights_.Find(LayerName(index, name), {n_out, n_in});
  };
  LEXICO_ASSIGN_OR_RETURN(const TensorView q,
                          matrix("self_attn.q_proj.weight", config_.q_dim(), hidden));
  LEXICO_ASSIGN_OR_RETURN(const TensorView k,
                          matrix("self_attn.k_proj.weight", config_.kv_dim(), hidden));
  LEXICO_ASSIGN_OR_RETURN(const TensorView v,
                          matrix("self_attn.v_proj.weight", config_.kv_dim(), hidden));
  LEXICO_ASSIGN_OR_RETURN(const TensorView o,
                          matrix("self_attn.o_proj.weight", hidden, config_.q_dim()));
  LEXICO_ASSIGN_OR_RETURN(const TensorView gate,
                          matrix("mlp.gate_proj.weight", config_.ffn_dim, hidden));
  LEXICO_ASSIGN_OR_RETURN(const TensorView up,
                          matrix("mlp.up_proj.weight", config_.ffn_dim, hidden));
  LEXICO_ASSIGN_OR_RETURN(const TensorView down,
                          matrix("mlp.down_proj.weight", hidden, config_.ffn_dim));
  LEXICO_ASSIGN_OR_RETURN(layer->qkv, kernels::PrepareMatrix({q, k, v}, stream_));
  LEXICO_ASSIGN_OR_RETURN(layer->output, kernels::PrepareMatrix({o}, stream_));
  LEXICO_ASSIGN_OR_RETURN(layer->gate_up, kernels::PrepareMatrix({gate, up}, stream_));
  LEXICO_ASSIGN_OR_RETURN(layer->down, kernels::PrepareMatrix({down}, stream_));

  LEXICO_ASSIGN_OR_RETURN(layer->attention_norm,
                          LoadNorm(LayerName(index, "input_layernorm.weight")));
  LEXICO_ASSIGN_OR_RETURN(layer->mlp_norm,
                          LoadNorm(LayerName(index, "post_attention_layernorm.weight")));
  if (config_.qkv_bias) {
    std::vector<float> stacked;
    for (const char* part : {"q", "k", "v"}) {
      LEXICO_ASSIGN_OR_RETURN(
          const std::vector<float> bias,
          LoadVector(LayerName(index, fmt::format("self_attn.{}_proj.bias", part)),
                     *part == 'q' ? config_.q_dim() : config_.kv_dim()));
      stacked.insert(stacked.end(), bias.begin(), bias.end());
    }
    LEXICO_ASSIGN_OR_RETURN(layer->qkv_bias, Place(stacked.data(), stacked.size() * sizeof(float)));
  }
  weight_bytes_ +=
      layer->qkv->bytes() + layer->output->bytes() + layer->gate_up->bytes() + layer->down->bytes();
  return absl::OkStatus();
}

absl::Status Transformer::LoadHead() {
  TensorView head = embedding_;
  if (weights_.Has(kHead)) {
    LEXICO_ASSIGN_OR_RETURN(head, weights_.Find(kHead, {config_.vocab_size, config_.hidden_dim}));
    // A tied head may be stored as well, but not say something else.
    const bool same = head.dtype == embedding_.dtype &&
                      std::memcmp(head.data, embedding_.data, head.size_bytes()) == 0;
    if (config_.tie_word_embeddings && !same) {
      return absl::InvalidArgumentError(
          fmt::format("tie_word_embeddings is true, but {} differs from {}; set it to false or "
                      "remove the tensor",
                      kHead, kEmbedding));
    }
  }
  LEXICO_ASSIGN_OR_RETURN(lm_head_, kernels::PrepareMatrix({head}, stream_));
  weight_bytes_ += lm_head_->bytes();
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> Transformer::LoadVector(const std::string& name,
                                                           int64_t size) const {
  LEXICO_ASSIGN_OR_RETURN(const TensorView stored, weights_.Find(name, {size}));
  std::vector<float> values(size);
  kernels::Convert(stored, MutableTensorView(values.data(), {size}), kernels::Stream::Cpu(1));
  return values;
}

absl::StatusOr<kernels::DeviceBuffer> Transformer::LoadNorm(const std::string& name) {
  LEXICO_ASSIGN_OR_RETURN(const std::vector<float> values, LoadVector(name, config_.hidden_dim));
  return Place(values.data(), values.size() * sizeof(float));
}

absl::StatusOr<kernels::DeviceBuffer> Transformer::Place(const void* data, size_t bytes) {
  LEXICO_ASSIGN_OR_RETURN(kernels::DeviceBuffer buffer,
                          kernels::DeviceBuffer::Allocate(bytes, stream_));
  buffer.CopyFrom(data, bytes);
  weight_bytes_ += bytes;
  return buffer;
}

// A CPU reads the table where the file is mapped.
absl::Status Transformer::PlaceEmbedding() {
  if (stream_.kind() == kernels::DeviceKind::kCpu) {
    weight_bytes_ += embedding_.size_bytes();
    return absl::OkStatus();
  }
  LEXICO_ASSIGN_OR_RETURN(device_embedding_, Place(embedding_.data, embedding_.size_bytes()));
  embedding_.data = device_embedding_.as<void>();
  return absl::OkStatus();
}

}  // namespace lexico::worker

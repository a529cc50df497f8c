// Transformer::Load: from the files of a model folder to packed matrices.
#include <fmt/format.h>

#include <cstring>
#include <iterator>
#include <set>

#include "absl/status/status.h"
#include "kernels/api/elementwise.h"
#include "kernels/api/rank_team.h"
#include "proto/base/status.h"
#include "worker/model/device_fit.h"
#include "worker/model/transformer.h"

namespace lexico::worker {
namespace {

using kernels::MutableTensorView;
using kernels::RankPart;
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

TensorView RowsOf(const TensorView& matrix, const RankPart& part) {
  const size_t row_bytes = matrix.dim(1) * kernels::DTypeBytes(matrix.dtype);
  return {static_cast<const char*>(matrix.data) + part.begin * row_bytes,
          matrix.dtype,
          {part.count, matrix.dim(1)}};
}

// Whether every device has room for its share of the weights.
absl::Status CheckFit(const ModelConfig& config, const ModelWeights& weights,
                      std::span<const kernels::Stream> streams) {
  LEXICO_ASSIGN_OR_RETURN(const TensorView embedding,
                          weights.Find(kEmbedding, {config.vocab_size, config.hidden_dim}));
  // Of what is split; a head that is not stored is the embedding once more.
  const size_t split = weights.bytes() - (weights.Has(kHead) ? embedding.size_bytes() : 0);
  for (const kernels::Stream& stream : streams) {
    if (stream.device() == nullptr) continue;
    LEXICO_RETURN_IF_ERROR(CheckWeightsFit(stream.device()->name(),
                                           embedding.size_bytes() + split / streams.size(),
                                           stream.device()->FreeBytes()));
  }
  return absl::OkStatus();
}

// The files are the host's work, and a GPU's stream has one thread.
int HashThreads(std::span<const kernels::Stream> streams) {
  if (streams[0].kind() != kernels::DeviceKind::kCpu) return kernels::Stream::Cpu().threads();
  int threads = 0;
  for (const kernels::Stream& stream : streams) threads += stream.threads();
  return threads;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Load(const std::string& model_dir,
                                                               const kernels::Stream& stream) {
  LEXICO_ASSIGN_OR_RETURN(auto ranks, LoadAll(model_dir, {&stream, 1}));
  return std::move(ranks[0]);
}

absl::StatusOr<std::vector<std::shared_ptr<const Transformer>>> Transformer::LoadRanks(
    const std::string& model_dir, std::span<const kernels::Stream> streams) {
  LEXICO_ASSIGN_OR_RETURN(auto ranks, LoadAll(model_dir, streams));
  return std::vector<std::shared_ptr<const Transformer>>(std::move_iterator(ranks.begin()),
                                                         std::move_iterator(ranks.end()));
}

absl::StatusOr<std::vector<std::unique_ptr<Transformer>>> Transformer::LoadAll(
    const std::string& model_dir, std::span<const kernels::Stream> streams) {
  LEXICO_ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(model_dir));
  LEXICO_ASSIGN_OR_RETURN(const ModelWeights weights, ModelWeights::Open(model_dir));
  LEXICO_RETURN_IF_ERROR(CheckNames(config, weights, model_dir));
  const auto size = static_cast<int>(streams.size());
  LEXICO_RETURN_IF_ERROR(ShardOfRank(config, 0, size).status());
  LEXICO_RETURN_IF_ERROR(CheckFit(config, weights, streams));
  LEXICO_RETURN_IF_ERROR(weights.CheckFinite(HashThreads(streams)));
  LEXICO_ASSIGN_OR_RETURN(const auto communicators, kernels::MakeCommunicators(streams));
  std::vector<std::unique_ptr<Transformer>> ranks(size);
  std::vector<absl::Status> loaded(size);
  kernels::RankTeam(size).Run([&](int rank) {
    ranks[rank].reset(new Transformer(streams[rank], communicators[rank]));
    ranks[rank]->config_ = config;
    ranks[rank]->weights_ = weights;
    loaded[rank] = ranks[rank]->LoadWeights();
  });
  for (const absl::Status& status : loaded) LEXICO_RETURN_IF_ERROR(status);
  const base::Fingerprint fingerprint =
      FingerprintOf(config, weights.ComputeFingerprint(HashThreads(streams)));
  for (const auto& rank : ranks) rank->fingerprint_ = fingerprint;
  return ranks;
}

absl::Status Transformer::LoadWeights() {
  LEXICO_ASSIGN_OR_RETURN(shard_, ShardOfRank(config_, rank(), n_ranks()));
  LEXICO_ASSIGN_OR_RETURN(embedding_,
                          weights_.Find(kEmbedding, {config_.vocab_size, config_.hidden_dim}));
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
  return absl::OkStatus();
}

absl::Status Transformer::LoadLayer(int index, Layer* layer) {
  const int64_t hidden = config_.hidden_dim;
  const auto heads = [&](const RankPart& part) {
    return RankPart{part.begin * config_.head_dim, part.count * config_.head_dim};
  };
  const RankPart q_part = heads(shard_.heads);
  const RankPart kv_part = heads(shard_.kv_heads);
  // The rank's rows of a matrix [n_out, hidden_dim].
  const auto rows = [&](std::string_view name, int64_t n_out,
                        const RankPart& part) -> absl::StatusOr<TensorView> {
    LEXICO_ASSIGN_OR_RETURN(const TensorView whole,
                            weights_.Find(LayerName(index, name), {n_out, hidden}));
    return RowsOf(whole, part);
  };
  LEXICO_ASSIGN_OR_RETURN(const TensorView q,
                          rows("self_attn.q_proj.weight", config_.q_dim(), q_part));
  LEXICO_ASSIGN_OR_RETURN(const TensorView k,
                          rows("self_attn.k_proj.weight", config_.kv_dim(), kv_part));
  LEXICO_ASSIGN_OR_RETURN(const TensorView v,
                          rows("self_attn.v_proj.weight", config_.kv_dim(), kv_part));
  LEXICO_ASSIGN_OR_RETURN(const TensorView gate,
                          rows("mlp.gate_proj.weight", config_.ffn_dim, shard_.ffn));
  LEXICO_ASSIGN_OR_RETURN(const TensorView up,
                          rows("mlp.up_proj.weight", config_.ffn_dim, shard_.ffn));
  LEXICO_ASSIGN_OR_RETURN(layer->qkv, kernels::PrepareMatrix({q, k, v}, stream_));
  LEXICO_ASSIGN_OR_RETURN(layer->gate_up, kernels::PrepareMatrix({gate, up}, stream_));
  LEXICO_ASSIGN_OR_RETURN(layer->output, LoadColumns(LayerName(index, "self_attn.o_proj.weight"),
                                                     config_.q_dim(), q_part));
  LEXICO_ASSIGN_OR_RETURN(layer->down, LoadColumns(LayerName(index, "mlp.down_proj.weight"),
                                                   config_.ffn_dim, shard_.ffn));
  LEXICO_ASSIGN_OR_RETURN(layer->attention_norm,
                          LoadNorm(LayerName(index, "input_layernorm.weight")));
  LEXICO_ASSIGN_OR_RETURN(layer->mlp_norm,
                          LoadNorm(LayerName(index, "post_attention_layernorm.weight")));
  if (config_.qkv_bias) {
    std::vector<float> stacked;
    for (const char* part : {"q", "k", "v"}) {
      const bool is_q = *part == 'q';
      LEXICO_ASSIGN_OR_RETURN(
          const std::vector<float> bias,
          LoadVector(LayerName(index, fmt::format("self_attn.{}_proj.bias", part)),
                     is_q ? config_.q_dim() : config_.kv_dim()));
      const RankPart& own = is_q ? q_part : kv_part;
      const auto first = bias.begin() + own.begin;
      stacked.insert(stacked.end(), first, first + own.count);
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
  LEXICO_ASSIGN_OR_RETURN(lm_head_, kernels::PrepareMatrix({RowsOf(head, shard_.vocab)}, stream_));
  weight_bytes_ += lm_head_->bytes();
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const kernels::PreparedMatrix>> Transformer::LoadColumns(
    const std::string& name, int64_t n_in, const RankPart& part) const {
  LEXICO_ASSIGN_OR_RETURN(const TensorView whole, weights_.Find(name, {config_.hidden_dim, n_in}));
  if (part.count == n_in) return kernels::PrepareMatrix({whole}, stream_);
  const size_t bytes = kernels::DTypeBytes(whole.dtype);
  const size_t row_bytes = part.count * bytes;
  std::vector<char> columns(config_.hidden_dim * row_bytes);
  const auto* from = static_cast<const char*>(whole.data) + part.begin * bytes;
  for (int64_t row = 0; row < config_.hidden_dim; ++row) {
    std::memcpy(columns.data() + row * row_bytes, from + row * n_in * bytes, row_bytes);
  }
  return kernels::PrepareMatrix(
      {TensorView(columns.data(), whole.dtype, {config_.hidden_dim, part.count})}, stream_);
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

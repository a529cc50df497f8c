// The layers of a Llama-class model, without its attention: the engine (or ExactDecoder,
// exact_decoder.h) owns keys and values, runs attention between the two halves of a layer, and so
// decides what is exact and what is coded.
//
//   Embed(ids) -> hidden
//   for each layer:
//     AttentionInputs   x = rms_norm(hidden); q, k, v = x W_qkv^T (+ bias); q, k = rope(q, k)
//     (attention over the caller's cache -> attention)
//     AttentionOutputs  hidden += attention W_o^T
//                       hidden += (silu(y W_gate^T) * (y W_up^T)) W_down^T, y = rms_norm(hidden)
//   Logits            rms_norm(hidden) W_lm_head^T
//
// Rows are independent: row i of every output depends on row i of the inputs only (the kernels'
// summation order may depend on how many rows go together). Activations between the calls are F32.
// Weights, and all arrays of the calls below, lie in the memory of the stream.
//
// A model may be split over several devices: then every rank has a Transformer, which holds the
// rank's share of the weights (model_shard.h), and all ranks make the calls below together, each on
// a thread of its own (kernels/api/collective.h). Heads are then those of the rank: n_heads,
// n_kv_heads, q_dim and kv_dim below are of local_config(). Hidden states and logits are whole, and
// the same on every rank to the last bit.
//
// Immutable after Load. Const methods may run on several threads at once, each with its own
// Scratch, though each already uses all threads of the stream.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/api/collective.h"
#include "kernels/api/device_buffer.h"
#include "kernels/api/growing_buffer.h"
#include "kernels/api/matmul.h"
#include "kernels/api/rows.h"
#include "kernels/api/stream.h"
#include "proto/base/hash.h"
#include "worker/model/config.h"
#include "worker/model/model_shard.h"
#include "worker/model/safetensors.h"

namespace lexico::worker {

class Transformer {
 public:
  // Working memory of the calls below: at most row_block() rows of a layer's widest intermediates,
  // whatever n is. On a CPU it grows to the largest batch seen and is reused; on a device Reserve
  // takes it at start. One thread at a time.
  class Scratch {
   public:
    absl::Status Reserve(const Transformer& transformer);
    size_t bytes() const { return norm_.bytes() + wide_.bytes() + narrow_.bytes(); }

   private:
    friend class Transformer;
    kernels::GrowingBuffer norm_;    // [rows, hidden_dim]
    kernels::GrowingBuffer wide_;    // [rows, q_dim + 2 kv_dim] or [rows, 2 ffn_dim] F32, or of a
                                     // split model [kSplitHeadRows, its part of vocab_size]
    kernels::GrowingBuffer narrow_;  // [rows, ffn_dim]
  };

  // Rows that pass through a half layer together. On a CPU 256: the widest intermediate of the
  // embedded model, [256, 2 * 1024] F32, is 2 MiB and stays in the last-level cache, while packed
  // weights are read once for 256 rows. On a GPU 2,048: enough to keep all multiprocessors busy
  // with the smallest matrix of an 8B model.
  int64_t row_block() const { return stream_.kind() == kernels::DeviceKind::kCpu ? 256 : 2048; }

  // Reads config.json and the weights, checks that every tensor the architecture has is there with
  // its shape and a floating-point type and that there is no other, that all numbers are finite and
  // fit the device, packs the matrices for the machine, and fingerprints. Errors: config.h,
  // safetensors.h, device_fit.h.
  static absl::StatusOr<std::unique_ptr<Transformer>> Load(const std::string& model_dir,
                                                           const kernels::Stream& stream);

  // The same on every stream's device, a share on each of several, in the order of the streams; all
  // at once. InvalidArgument for a model that cannot be split so (model_shard.h); errors of
  // kernels::MakeCommunicators.
  static absl::StatusOr<std::vector<std::shared_ptr<const Transformer>>> LoadRanks(
      const std::string& model_dir, std::span<const kernels::Stream> streams);

  const ModelConfig& config() const { return config_; }
  // The same, with the heads and the MLP of this rank.
  const ModelConfig& local_config() const { return shard_.config; }
  // Null unless the model is split.
  kernels::Communicator* communicator() const { return communicator_.get(); }
  // Of the architecture, the shape, the numbers of the config that change the function, and all
  // bytes of all weights; equal on every machine, however the files are sharded. Names what keys
  // and values were computed with.
  const base::Fingerprint& fingerprint() const { return fingerprint_; }
  // Memory held for weights on this device: packed matrices, norms, and the embedding table (mapped
  // on a CPU).
  size_t weight_bytes() const { return weight_bytes_; }

  // hidden [n, hidden_dim], overwritten, n = ids.size(). REQUIRES: 0 <= id < vocab_size.
  void Embed(std::span<const int32_t> ids, float* hidden) const;

  // hidden [n, hidden_dim]; positions [n], below max_positions. Outputs, overwritten:
  // q [n, n_heads, head_dim], k and v [n, n_kv_heads, head_dim]; q and k after RoPE.
  // With `rows`, all of whose fields but k and v are set, keys and values are stored there as
  // kernels::RotateAndStore does; k and v are then scratch.
  void AttentionInputs(int layer, const float* hidden, int64_t n, const int32_t* positions,
                       float* q, float* k, float* v, Scratch& scratch,
                       const kernels::StoreRowsArgs* rows = nullptr) const;

  // attention [n, n_heads * head_dim], F32 or activation_type(); hidden [n, hidden_dim] is updated
  // in place.
  void AttentionOutputs(int layer, kernels::TensorView attention, float* hidden,
                        Scratch& scratch) const;
  // What the matrix products read without a copy: F32 on a CPU, the type of the weights on a
  // device.
  kernels::DType activation_type() const { return lm_head_->input_type(); }

  // hidden [n, hidden_dim], unchanged; logits [n, vocab_size], overwritten.
  void Logits(const float* hidden, int64_t n, float* logits, Scratch& scratch) const;

 private:
  struct Layer {
    kernels::DeviceBuffer attention_norm;  // [hidden_dim] F32
    kernels::DeviceBuffer mlp_norm;        // [hidden_dim] F32
    kernels::DeviceBuffer qkv_bias;        // [q_dim + 2 kv_dim] F32, or empty
    std::shared_ptr<const kernels::PreparedMatrix> qkv;
    std::shared_ptr<const kernels::PreparedMatrix> output;
    std::shared_ptr<const kernels::PreparedMatrix> gate_up;
    std::shared_ptr<const kernels::PreparedMatrix> down;
  };

  Transformer(const kernels::Stream& stream, std::shared_ptr<kernels::Communicator> communicator)
      : stream_(stream), communicator_(std::move(communicator)) {}
  static absl::StatusOr<std::vector<std::unique_ptr<Transformer>>> LoadAll(
      const std::string& model_dir, std::span<const kernels::Stream> streams);
  // REQUIRES: config_ and weights_ are set, and agree.
  absl::Status LoadWeights();
  absl::Status LoadLayer(int index, Layer* layer);
  absl::Status LoadHead();
  // The rank's columns of a matrix [hidden_dim, n_in].
  absl::StatusOr<std::shared_ptr<const kernels::PreparedMatrix>> LoadColumns(
      const std::string& name, int64_t n_in, const kernels::RankPart& part) const;
  absl::StatusOr<std::vector<float>> LoadVector(const std::string& name, int64_t size) const;
  absl::StatusOr<kernels::DeviceBuffer> LoadNorm(const std::string& name);
  // A copy in the stream's memory; counts as weights.
  absl::StatusOr<kernels::DeviceBuffer> Place(const void* data, size_t bytes);
  absl::Status PlaceEmbedding();

  // Logits of a split model pass through Scratch in blocks of so many rows.
  static constexpr int64_t kSplitHeadRows = 128;
  int rank() const { return communicator_ == nullptr ? 0 : communicator_->rank(); }
  int n_ranks() const { return communicator_ == nullptr ? 1 : communicator_->size(); }
  // hidden [n, hidden_dim] += x W^T of all ranks together.
  void AddProduct(kernels::TensorView x, const kernels::PreparedMatrix& w,
                  kernels::MutableTensorView hidden) const;

  kernels::Stream stream_;
  std::shared_ptr<kernels::Communicator> communicator_;
  ModelConfig config_;
  ModelShard shard_;
  ModelWeights weights_;  // keeps the embedding table mapped
  kernels::TensorView embedding_;
  kernels::DeviceBuffer device_embedding_;  // what embedding_ views, on a device
  kernels::DeviceBuffer inv_frequency_;     // [head_dim / 2] F64
  std::vector<Layer> layers_;
  kernels::DeviceBuffer final_norm_;                        // [hidden_dim] F32
  std::shared_ptr<const kernels::PreparedMatrix> lm_head_;  // the rank's part of the vocabulary
  base::Fingerprint fingerprint_;
  size_t weight_bytes_ = 0;
};

}  // namespace lexico::worker

// Trains the dictionaries of all layers together on sets of vectors.
//
// A round is one or more passes over a set in batches; a batch is coded (OmpEncode) and the atoms
// of every dictionary are updated from its codes (UpdateAtoms). Loss: the mean relative error,
// which is what is reported; the set's vectors are scaled to one norm, so that no layer or token
// counts more than another. docs/adr/0013 says what else was tried.
//
// Everything lies in the memory of a stream and is done by its ops; the host waits once a batch of
// all dictionaries, and reads atoms between rounds only.
//
// Deterministic: equal bits on one device for equal sets and equal options, whatever the number of
// threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/api/device_buffer.h"
#include "kernels/api/dictionary.h"
#include "kernels/api/stream.h"
#include "tools/train_dictionary/atoms.h"
#include "tools/train_dictionary/vector_set.h"

namespace lexico::train_dictionary {

// The norm of the vectors of a set to train on: coefficients are then large enough for E4M3 to be
// exact to its three bits, and within its range.
inline constexpr float kTrainNorm = 16;

struct TrainerOptions {
  int n_atoms = 4096;
  int sparsity = 8;
  int n_rounds = 12;
  int n_passes = 1;  // of a round over its set
  uint64_t seed = 1;
};

// Mean relative error of codes as they are served, of one dictionary.
struct HeldOutError {
  double all = 0;
  std::vector<double> by_position;  // within PositionBands(), NaN for a band without vectors
};
// Ends of bands of positions: 1,024, 4,096, 16,384, and all above.
std::vector<int64_t> PositionBands();

class Trainer {
 public:
  // Takes the memory for sets of up to n_vectors. ResourceExhausted where the stream's device has
  // not that much.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(const TrainerOptions& options,
                                                         int n_dictionaries, int head_dim,
                                                         int64_t n_vectors,
                                                         const kernels::Stream& stream);

  // What training begins with: atoms of vectors of a set and noise. InvalidArgument where a
  // dictionary has fewer non-zero vectors than atoms.
  absl::Status BeginFromData(const VectorSet& set);
  // Or what it goes on from.
  void Begin(const std::vector<Atoms>& atoms, int n_rounds_done);

  // `progress` hears the part of the round that is done, 0 .. 1. REQUIRES: it has begun; `set` is
  // full, its vectors of norm kTrainNorm
  absl::Status RunRound(const VectorSet& set, const std::function<void(double)>& progress);
  int n_rounds_done() const { return n_rounds_done_; }
  // Of the last round, mean relative error of the training vectors by dictionary, as they were
  // coded before each update.
  const std::vector<double>& train_errors() const { return train_errors_; }

  // Codes the first n vectors of `held_out` with the atoms as a file holds them.
  absl::StatusOr<std::vector<HeldOutError>> Validate(const VectorSet& held_out, int64_t n);

  // All that training goes on from; for checkpoints.
  std::vector<Atoms> atoms() const;

 private:
  Trainer(const TrainerOptions& options, int n_dictionaries, int head_dim,
          const kernels::Stream& stream)
      : options_(options),
        n_dictionaries_(n_dictionaries),
        head_dim_(head_dim),
        stream_(stream),
        dictionaries_(n_dictionaries) {}
  int64_t batch() const;
  float* rows(int dictionary) const {
    return rows_.as<float>() + int64_t{dictionary} * options_.n_atoms * head_dim_;
  }
  float* weights(int dictionary) const {
    return weights_.as<float>() + int64_t{dictionary} * options_.n_atoms;
  }
  int32_t* n_uses(int dictionary) const {
    return n_uses_.as<int32_t>() + int64_t{dictionary} * options_.n_atoms;
  }
  // Codes n vectors with the atoms as they are now, errors to `rel_errors`, of the stream.
  absl::Status Encode(const VectorSet& set, int dictionary, int64_t first, int64_t n,
                      float* rel_errors);
  void Update(int dictionary, int64_t n, const float* rel_errors, float memory);
  void Reseed(const VectorSet& set, int dictionary, const std::vector<float>& errors);

  TrainerOptions options_;
  int n_dictionaries_;
  int head_dim_;
  kernels::Stream stream_;
  int n_rounds_done_ = 0;
  std::vector<double> train_errors_;
  kernels::DeviceBuffer rows_;     // [n_dictionaries, n_atoms, head_dim] F32
  kernels::DeviceBuffer weights_;  // [n_dictionaries, n_atoms] F32
  kernels::DeviceBuffer n_uses_;   // [n_dictionaries, n_atoms] I32, of the round
  std::vector<std::shared_ptr<const kernels::PreparedDictionary>> dictionaries_;
  kernels::DeviceBuffer x_;           // [batch, head_dim] F32
  kernels::DeviceBuffer atoms_;       // [batch, sparsity] U16
  kernels::DeviceBuffer coefs_;       // [batch, sparsity] E4M3
  kernels::DeviceBuffer rel_errors_;  // [n_dictionaries, n_vectors] F32
};

// `rows` [n] unit rows to FP16, as files hold them.
std::vector<uint16_t> ToF16(const std::vector<float>& rows);

}  // namespace lexico::train_dictionary

// Trains the dictionaries of all layers together on a set of vectors.
//
// A round is one pass over the set in batches; a batch is coded (OmpEncode) and the atoms of every
// dictionary are updated from their codes (atom_update.h). Loss: the squared error relative to the
// vector's norm, summed: vectors are scaled to one norm first, so that no layer or token counts
// more than another. docs/adr/0013 says what else was tried.
//
// Deterministic: equal bits for an equal set and equal options, whatever the number of threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/api/dictionary.h"
#include "kernels/api/stream.h"
#include "tools/train_dictionary/atom_update.h"
#include "tools/train_dictionary/vector_set.h"

namespace lexico::train_dictionary {

struct TrainerOptions {
  int n_atoms = 4096;
  int sparsity = 8;
  int n_rounds = 12;
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
  // Starts from atoms of data and noise. `train` must outlive the trainer. InvalidArgument where a
  // dictionary has fewer non-zero vectors than atoms.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(const TrainerOptions& options,
                                                         const VectorSet* train,
                                                         const kernels::Stream& stream);

  // `progress` hears the part of the round that is done, 0 .. 1.
  absl::Status RunRound(const std::function<void(double)>& progress);
  int n_rounds_done() const { return n_rounds_done_; }
  // Of the last round, mean relative error of the training vectors by dictionary, as they were
  // coded before each update.
  const std::vector<double>& train_errors() const { return train_errors_; }

  // Codes the first n vectors of `held_out` with the atoms as a file holds them.
  absl::StatusOr<std::vector<HeldOutError>> Validate(const VectorSet& held_out, int64_t n) const;

  // All that training goes on from; for checkpoints.
  const std::vector<Atoms>& atoms() const { return atoms_; }
  void Resume(std::vector<Atoms> atoms, int n_rounds_done);

 private:
  Trainer(const TrainerOptions& options, const VectorSet* train, const kernels::Stream& stream)
      : options_(options), train_(train), stream_(stream) {}
  absl::Status InitialAtoms(int dictionary);
  absl::Status RunBatch(int64_t first, int64_t n);
  void Reseed(int dictionary);

  TrainerOptions options_;
  const VectorSet* train_;
  kernels::Stream stream_;
  std::vector<Atoms> atoms_;  // [n_dictionaries]
  int n_rounds_done_ = 0;
  std::vector<double> train_errors_;
  std::vector<Codes> codes_;                    // of a batch
  std::vector<std::vector<float>> rel_errors_;  // of a round's vectors
};

// Codes x [n, head_dim] (host memory) on any stream; rel_error [n]. Not finite: Internal.
absl::Status Encode(const float* x, int64_t n, int head_dim, int sparsity,
                    const kernels::PreparedDictionary& dictionary, const kernels::Stream& stream,
                    Codes* codes, float* rel_error);

// `rows` [n] unit rows to FP16, as files hold them.
std::vector<uint16_t> ToF16(const std::vector<float>& rows);

}  // namespace lexico::train_dictionary

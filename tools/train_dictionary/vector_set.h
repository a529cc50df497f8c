// Keys and values of all layers, a set of bounded size in the memory of a stream: what dictionaries
// are trained on and judged by. Vectors are kept in BF16, as most caches hold them.
//
// Dictionaries are numbered 2 * layer + (value ? 1 : 0). Vector i of every dictionary belongs to
// the same token and KV head. Rows of a window are kept in runs of kRunRows neighbours, and every
// run goes to a random place of the set: any range of the set is then a mixture of all its windows
// and positions, without a list of single rows. Training without that mixture is far worse
// (docs/adr/0013).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/api/device_buffer.h"
#include "kernels/api/stream.h"
#include "kernels/api/tensor.h"

namespace lexico::train_dictionary {

// "layers.3.k", as in files.
std::string DictionaryName(int dictionary);

// A number of the place `index` of sequence `stream` of `seed`, uniform over 64 bits.
uint64_t RandomAt(uint64_t seed, uint64_t stream, uint64_t index);
// The first n of 0 .. size - 1 in the order of their random numbers.
std::vector<int64_t> RandomOrder(int64_t n, int64_t size, uint64_t seed, uint64_t stream);

// Rows of a window that stay together.
inline constexpr int64_t kRunRows = 16;

struct VectorSetShape {
  int n_dictionaries = 0;
  int n_kv_heads = 0;
  int head_dim = 0;
  int64_t n_vectors = 0;        // whole runs
  int64_t window_rows_max = 0;  // of a window, tokens times KV heads
  float norm = 0;               // that every vector but zero is scaled to; 0: as they are
};

// Thread-compatible.
class VectorSet {
 public:
  // Empty. ResourceExhausted where the stream's device has not that much memory: 2 * head_dim bytes
  // a vector and dictionary.
  static absl::StatusOr<VectorSet> Create(const VectorSetShape& shape,
                                          const kernels::Stream& stream);

  int n_dictionaries() const { return shape_.n_dictionaries; }
  int head_dim() const { return shape_.head_dim; }
  int64_t n_vectors() const { return shape_.n_vectors; }
  int64_t n_filled() const { return n_runs_filled_ * kRunRows; }
  bool full() const { return n_filled() == n_vectors(); }

  // Empties the set; runs then go to an order of places that depends on the seed alone.
  void Clear(uint64_t seed);

  // What is kept of the next window, of n_rows rows from first_position on, row r at position
  // first_position + r / n_kv_heads: up to n_runs of its whole runs, chosen at random, as far as
  // there is room. REQUIRES: n_rows <= window_rows_max
  void BeginWindow(int64_t n_rows, int64_t n_runs, int64_t first_position);
  // Of every dictionary, [n_rows, head_dim] F32 in the stream's memory, written over.
  void Keep(int dictionary, kernels::MutableTensorView rows);
  // After the last dictionary. InvalidArgument, with the dictionary and the window's positions,
  // where a number is not finite.
  absl::Status EndWindow();

  // Vectors first .. first + n - 1 to `to` [n, head_dim] F32, of the stream.
  void Copy(int dictionary, int64_t first, int64_t n, float* to) const;
  // All vectors of a dictionary, in host memory; done on return.
  std::vector<float> Download(int dictionary) const;
  int32_t position(int64_t vector) const { return positions_[vector]; }

 private:
  VectorSet(const VectorSetShape& shape, const kernels::Stream& stream)
      : shape_(shape), stream_(stream), positions_(shape.n_vectors) {}
  uint16_t* RunOf(int dictionary, int64_t run) const;

  VectorSetShape shape_;
  kernels::Stream stream_;
  uint64_t seed_ = 0;
  int64_t n_runs_filled_ = 0;
  std::vector<int64_t> order_;      // place of the i-th run
  std::vector<int32_t> positions_;  // [n_vectors]
  int64_t window_begin_ = 0;        // of the window at hand: its positions
  int64_t window_end_ = 0;
  int64_t n_picks_ = 0;                         // its runs that are kept
  std::vector<kernels::DeviceBuffer> vectors_;  // [n_dictionaries][n_vectors, head_dim] BF16
  kernels::DeviceBuffer staging_;               // [window_rows_max, head_dim] BF16
  kernels::DeviceBuffer scale_;                 // [head_dim] F32
  kernels::DeviceBuffer from_;                  // [runs of a window] pointers into staging_
  kernels::DeviceBuffer to_;                    // [n_dictionaries, n_picks] pointers into vectors_
  kernels::DeviceBuffer non_finite_;            // [n_dictionaries] I32
};

}  // namespace lexico::train_dictionary

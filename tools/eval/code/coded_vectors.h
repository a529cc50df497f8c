// Any vectors, coded with a dictionary: what lexico-eval code computes and writes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/api/stream.h"
#include "kernels/api/tensor.h"
#include "proto/base/vector_code.h"

namespace lexico::eval {

struct CodedVectors {
  int64_t n_vectors = 0;
  int sparsity = 0;
  int head_dim = 0;
  std::vector<uint16_t> atoms;        // [n_vectors, sparsity], in greedy order, then zeros
  std::vector<uint8_t> coefs;         // [n_vectors, sparsity] FP8 E4M3, or 4 bits and 0 above them
  std::vector<float> coef_values;     // [n_vectors, sparsity], the numbers that coefs stand for
  std::vector<float> reconstruction;  // [n_vectors, head_dim], of the whole code as it is stored
  std::vector<float> errors;          // [n_vectors], ||x - x^|| / ||x||; 0 for x = 0

  double mean_atoms() const;  // coefficients that are not 0, of a vector
};

struct ErrorSummary {
  double mean = 0;
  double p50 = 0;
  double p90 = 0;
  double p99 = 0;
  double max = 0;
};
// Percentiles are of the nearest rank. REQUIRES: errors is not empty.
ErrorSummary Summarize(std::vector<float> errors);

// dictionary [n_atoms, head_dim] F16 or F32, vectors [n_vectors, head_dim] F32, F16 or BF16, in
// host memory; the stream is a CPU's. `code` is one of a profile. InvalidArgument for widths that
// differ, no vectors, a code that the dictionary does not allow, and numbers that are not finite,
// with the first vector that has one.
absl::StatusOr<CodedVectors> CodeVectors(kernels::TensorView dictionary,
                                         kernels::TensorView vectors, const base::VectorCode& code,
                                         float error_threshold, const kernels::Stream& stream);

// A tensor of a safetensors file, [., .] of any type of the kernels. NotFound names the nearest;
// InvalidArgument for another rank or type. `owner` keeps what it views.
struct FileMatrix {
  std::shared_ptr<const void> owner;
  kernels::TensorView view;
};
absl::StatusOr<FileMatrix> ReadMatrix(const std::string& path, const std::string& name);

// Writes `reconstruction` and `errors` F32, `coefficient_values` F32, `indices` U16 and
// `coefficients` U8 as safetensors. Unavailable, with the path and the system's words; nothing is
// left behind then.
absl::Status WriteCodedVectors(const std::string& path, const CodedVectors& coded);

}  // namespace lexico::eval

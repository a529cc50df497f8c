// A dictionary as the ops use it.
//
// D is [n_atoms, head_dim] with unit rows (the paper's D transposed). It comes as FP16 from the
// file; an op may need another form (F32, packed for the matrix product, the Gram matrix D D^T),
// which PrepareDictionary makes once, at model load. Immutable afterwards; shared by all threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/api/stream.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels {

class PreparedDictionary {
 public:
  virtual ~PreparedDictionary() = default;
  int n_atoms() const { return n_atoms_; }
  int head_dim() const { return head_dim_; }
  // Memory held, for the budget a worker prints at start.
  virtual size_t bytes() const = 0;

 protected:
  PreparedDictionary(int n_atoms, int head_dim) : n_atoms_(n_atoms), head_dim_(head_dim) {}

 private:
  int n_atoms_;
  int head_dim_;
};

// What a dictionary may take for its Gram matrix, n_atoms^2 bytes, unless told otherwise:
// enough for 1024 atoms. With it OmpEncode codes small batches, as a decode step seals them, about
// three times as fast; large batches make their own. 4096 atoms take 16 MiB, times two dictionaries
// a layer.
inline constexpr size_t kGramBytesMaxDefault = size_t{2} << 20;

// `dictionary` is [n_atoms, head_dim] F16 or F32 in host memory; it is copied. InvalidArgument when
// a shape is outside limits.h, a value is not finite, or a row's norm is further than 1 % from 1
// (the message names the row and its norm). Rows are re-normalised in double, so that FP16 rounding
// of the file does not bias codes. On a CPU the Gram matrix is made and kept where it takes at most
// `gram_bytes_max`; codes are the same bits with and without it. On a GPU, ResourceExhausted where
// the dictionary does not fit.
absl::StatusOr<std::shared_ptr<const PreparedDictionary>> PrepareDictionary(
    TensorView dictionary, const Stream& stream, size_t gram_bytes_max = kGramBytesMaxDefault);

// For training, where atoms change from batch to batch: the dictionary that a file with `rows`
// [n_atoms, head_dim], F32 and in the stream's memory, rounded to F16, would give, without a Gram
// matrix. `old`, where it is of the same shape, came from here and nobody else holds it, is used
// up: on a GPU its memory is written over in the order of the ops and the host does not wait; a GPU
// looks at no number. InvalidArgument and ResourceExhausted as above. REQUIRES: rows are finite
// unit rows
absl::StatusOr<std::shared_ptr<const PreparedDictionary>> PrepareRows(
    TensorView rows, const Stream& stream, std::shared_ptr<const PreparedDictionary> old = nullptr);

// The form in which `dictionary` codes `n_vectors` vectors fastest when they come in several
// OmpEncode calls: with its Gram matrix (n_atoms^2 bytes) where making it pays, otherwise, or
// where it is kept already, `dictionary` itself. Codes are the same bits. Hold it while coding and
// let it go.
std::shared_ptr<const PreparedDictionary> DictionaryForCoding(
    std::shared_ptr<const PreparedDictionary> dictionary, int64_t n_vectors, int sparsity,
    const Stream& stream);

}  // namespace lexico::kernels

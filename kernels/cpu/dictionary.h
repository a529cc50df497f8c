// The CPU's forms of a dictionary, each for the loop that reads it: FP32 rows, panels of 16 and of
// 8 bits for the pursuit's search, and what attention reads (attention_atoms.h): 2 + 1 + 0.5 + 2
// MiB at 4096 x 128, and the Gram matrix where it is small.
#pragma once

#include <hwy/aligned_allocator.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/api/dictionary.h"
#include "kernels/cpu/attention_atoms.h"
#include "kernels/cpu/omp_bytes.h"

namespace lexico::kernels::cpu {

// Atoms are grouped in chunks for the pursuit's search; arrays over atoms end at a whole chunk.
inline constexpr int kChunkAtoms = 8 * kPanelAtoms;

// Value of 1.0 in 16-bit panels and in vectors multiplied with them.
inline constexpr float kQuantizedOne = 32767.0f;

class Dictionary final : public PreparedDictionary {
 public:
  // `rows` [n_atoms, head_dim], unit rows; copied. `attention` holds the same atoms.
  Dictionary(const float* rows, std::shared_ptr<const AttentionAtoms> attention, int threads,
             size_t gram_bytes_max);
  // The same with its Gram matrix; the other forms are shared.
  std::shared_ptr<const Dictionary> WithGram(int threads) const;

  size_t bytes() const override;

  const AttentionAtoms& attention() const { return *attention_; }

  // Row a at rows() + a * row_stride(); the places from head_dim to row_stride are 0.
  const float* rows() const { return rows_.get(); }
  const float* row(int atom) const { return rows_.get() + static_cast<size_t>(atom) * row_stride_; }
  int row_stride() const { return row_stride_; }

  // [padded_atoms / kPanelAtoms, ceil(head_dim / 2), kPanelAtoms, 2] int16: components 2i and 2i +
  // 1 of atom p * kPanelAtoms + j side by side, times kQuantizedOne, rounded; atoms past n_atoms
  // are 0.
  const int16_t* quantized() const { return quantized_.get(); }
  int n_pairs() const { return (head_dim() + 1) / 2; }
  int n_chunks() const { return n_chunks_; }
  // n_atoms rounded up to whole chunks.
  int padded_atoms() const { return n_chunks_ * kChunkAtoms; }

  // Null where the processor has no dot products of bytes.
  const BytePanels* byte_panels() const { return byte_panels_.get(); }

  // Whether rows of the Gram matrix are faster than projections: not where AMX multiplies bytes.
  bool gram_serves() const {
    return byte_panels_ == nullptr || byte_panels_->unit() != ByteUnit::kAmx;
  }
  // The Gram matrix, [n_atoms, padded_atoms / 2] words (omp_gram.h). Null where it would not serve
  // or take more than gram_bytes_max.
  const int16_t* gram() const { return gram_.get(); }

 private:
  size_t gram_elements() const { return static_cast<size_t>(n_atoms()) * padded_atoms() / 2; }
  void MakeGram(int threads);

  std::shared_ptr<const AttentionAtoms> attention_;
  int row_stride_;
  int n_chunks_;
  // Shared with the copies that WithGram makes.
  std::shared_ptr<const float[]> rows_;
  std::shared_ptr<const int16_t[]> quantized_;
  std::shared_ptr<const BytePanels> byte_panels_;
  std::shared_ptr<const int16_t[]> gram_;
};

absl::StatusOr<std::shared_ptr<const PreparedDictionary>> PrepareDictionary(TensorView dictionary,
                                                                            const Stream& stream,
                                                                            size_t gram_bytes_max);

absl::StatusOr<std::shared_ptr<const PreparedDictionary>> PrepareRows(TensorView rows,
                                                                      const Stream& stream);

// The CPU form behind the interface; CHECK-fails for a dictionary that another device prepared.
const Dictionary& AsCpu(const PreparedDictionary& dictionary);

}  // namespace lexico::kernels::cpu

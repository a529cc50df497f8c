#include "kernels/cpu/dictionary.h"

#include <sys/mman.h>

#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/api/unit_atoms.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/omp_gram.h"

namespace lexico::kernels::cpu {
namespace {

template <typename T>
hwy::AlignedFreeUniquePtr<T[]> NewZeros(size_t n) {
  auto array = hwy::AllocateAligned<T>(n);
  std::memset(array.get(), 0, n * sizeof(T));
  return array;
}

// An uninitialised array that the kernel may back with 2 MiB pages: a row of G is read from
// anywhere in 16 MiB, which is more than the second TLB reaches with 4 KiB pages.
hwy::AlignedFreeUniquePtr<int16_t[]> NewOnLargePages(size_t n) {
  constexpr size_t kLargePage = size_t{2} << 20;
  auto array = hwy::AllocateAligned<int16_t>(n);
  const auto begin =
      (reinterpret_cast<uintptr_t>(array.get()) + kLargePage - 1) & ~(kLargePage - 1);
  const auto end = reinterpret_cast<uintptr_t>(array.get() + n) & ~(kLargePage - 1);
  // Advice only: without it the result is the same, and slower.
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  return array;
}

}  // namespace

Dictionary::Dictionary(const float* rows, std::shared_ptr<const AttentionAtoms> attention,
                       int threads, size_t gram_bytes_max)
    : PreparedDictionary(attention->n_atoms(), attention->head_dim()),
      attention_(std::move(attention)),
      row_stride_((head_dim() + 15) / 16 * 16),
      n_chunks_((n_atoms() + kChunkAtoms - 1) / kChunkAtoms) {
  const int n_atoms = this->n_atoms();
  const int head_dim = this->head_dim();
  auto wide_rows = NewZeros<float>(static_cast<size_t>(n_atoms) * row_stride_);
  auto quantized = NewZeros<int16_t>(static_cast<size_t>(padded_atoms()) * n_pairs() * 2);
  for (int a = 0; a < n_atoms; ++a) {
    const float* from = rows + static_cast<size_t>(a) * head_dim;
    const size_t panel = a / kPanelAtoms;
    const size_t place = a % kPanelAtoms;
    std::memcpy(wide_rows.get() + static_cast<size_t>(a) * row_stride_, from,
                head_dim * sizeof(float));
    int16_t* narrow = quantized.get() + panel * kPanelAtoms * n_pairs() * 2 + place * 2;
    for (int i = 0; i < head_dim; ++i) {
      narrow[(i / 2) * kPanelAtoms * 2 + i % 2] =
          static_cast<int16_t>(std::lrint(from[i] * kQuantizedOne));
    }
  }
  if (BestByteUnit() != ByteUnit::kNone) {
    byte_panels_ =
        std::make_shared<const BytePanels>(wide_rows.get(), n_atoms, row_stride_, padded_atoms());
  }
  rows_ = std::move(wide_rows);
  quantized_ = std::move(quantized);
  if (gram_serves() && gram_elements() * sizeof(int16_t) <= gram_bytes_max) MakeGram(threads);
}

void Dictionary::MakeGram(int threads) {
  auto gram = NewOnLargePages(gram_elements());
  BuildGram(*this, threads, gram.get());
  gram_ = std::move(gram);
}

std::shared_ptr<const Dictionary> Dictionary::WithGram(int threads) const {
  const auto copy = std::make_shared<Dictionary>(*this);
  copy->MakeGram(threads);
  return copy;
}

size_t Dictionary::bytes() const {
  const size_t floats = static_cast<size_t>(n_atoms()) * row_stride_;
  const size_t shorts = static_cast<size_t>(padded_atoms()) * n_pairs() * 2 +
                        (gram_ != nullptr ? gram_elements() : 0);
  return floats * sizeof(float) + shorts * sizeof(int16_t) + attention_->bytes() +
         (byte_panels_ != nullptr ? byte_panels_->bytes() : 0);
}

absl::StatusOr<std::shared_ptr<const PreparedDictionary>> PrepareDictionary(TensorView dictionary,
                                                                            const Stream& stream,
                                                                            size_t gram_bytes_max) {
  const absl::StatusOr<UnitAtoms> atoms = ReadUnitAtoms(dictionary);
  if (!atoms.ok()) return atoms.status();
  return std::make_shared<const Dictionary>(
      atoms->rows.data(), std::make_shared<const AttentionAtoms>(dictionary, atoms->norms),
      stream.threads(), gram_bytes_max);
}

absl::StatusOr<std::shared_ptr<const PreparedDictionary>> PrepareRows(TensorView rows,
                                                                      const Stream& stream) {
  std::vector<uint16_t> halves(rows.size());
  Convert(rows, MutableTensorView(halves.data(), DType::kF16, {rows.dim(0), rows.dim(1)}),
          stream.threads());
  return cpu::PrepareDictionary(TensorView(halves.data(), DType::kF16, {rows.dim(0), rows.dim(1)}),
                                stream, 0);
}

const Dictionary& AsCpu(const PreparedDictionary& dictionary) {
  const auto* cpu = dynamic_cast<const Dictionary*>(&dictionary);
  LEXICO_CHECK(cpu != nullptr);
  return *cpu;
}

}  // namespace lexico::kernels::cpu

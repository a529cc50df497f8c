#include "kernels/cpu/dictionary.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/cpu/omp_gram.h"
#include "proto/base/limits.h"

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

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 0x1f;
  const uint32_t mantissa = half & 0x3ff;
  if (exponent == 0) {  // 0 and subnormals: mantissa * 2^-24
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide = exponent == 0x1f ? 0xffu : exponent + 112;
  return std::bit_cast<float>(sign | (wide << 23) | (mantissa << 13));
}

float Element(const TensorView& view, int64_t i) {
  return view.dtype == DType::kF16 ? HalfToFloat(view.as<uint16_t>()[i]) : view.as<float>()[i];
}

absl::Status ValidateShape(const TensorView& view) {
  if (view.rank != 2) {
    return absl::InvalidArgumentError(
        fmt::format("dictionary has rank {}, not 2 [n_atoms, head_dim]", view.rank));
  }
  if (view.dtype != DType::kF16 && view.dtype != DType::kF32) {
    return absl::InvalidArgumentError(
        fmt::format("dictionary has type {}; F16 or F32 are supported", DTypeName(view.dtype)));
  }
  const int64_t n_atoms = view.dim(0);
  const int64_t head_dim = view.dim(1);
  if (n_atoms < base::kAtomsMin || n_atoms > base::kAtomsMax) {
    return absl::InvalidArgumentError(fmt::format("dictionary has {} atoms; {} to {} are supported",
                                                  n_atoms, base::kAtomsMin, base::kAtomsMax));
  }
  if (head_dim < 1 || head_dim > base::kHeadDimMax) {
    return absl::InvalidArgumentError(fmt::format(
        "dictionary has head_dim {}; 1 to {} are supported", head_dim, base::kHeadDimMax));
  }
  return absl::OkStatus();
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
  if (HasByteDots()) {
    byte_panels_ =
        std::make_shared<const BytePanels>(wide_rows.get(), n_atoms, row_stride_, padded_atoms());
  }
  rows_ = std::move(wide_rows);
  quantized_ = std::move(quantized);
  if (gram_elements() * sizeof(int16_t) <= gram_bytes_max) MakeGram(threads);
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
  if (absl::Status status = ValidateShape(dictionary); !status.ok()) return status;
  const int n_atoms = static_cast<int>(dictionary.dim(0));
  const int head_dim = static_cast<int>(dictionary.dim(1));
  std::vector<float> rows(static_cast<size_t>(n_atoms) * head_dim);
  std::vector<double> norms(n_atoms);
  for (int a = 0; a < n_atoms; ++a) {
    float* row = rows.data() + static_cast<size_t>(a) * head_dim;
    double squares = 0;
    for (int i = 0; i < head_dim; ++i) {
      row[i] = Element(dictionary, static_cast<int64_t>(a) * head_dim + i);
      if (!std::isfinite(row[i])) {
        return absl::InvalidArgumentError(
            fmt::format("dictionary atom {} component {} is {}, not finite", a, i, row[i]));
      }
      squares += static_cast<double>(row[i]) * row[i];
    }
    const double norm = std::sqrt(squares);
    norms[a] = norm;
    if (!(std::abs(norm - 1) <= 0.01)) {
      return absl::InvalidArgumentError(fmt::format(
          "dictionary atom {} has norm {:.6g}; atoms must have norm 1 within 1 %", a, norm));
    }
    for (int i = 0; i < head_dim; ++i) row[i] = static_cast<float>(row[i] / norm);
  }
  return std::make_shared<const Dictionary>(
      rows.data(), std::make_shared<const AttentionAtoms>(dictionary, norms), stream.threads(),
      gram_bytes_max);
}

const Dictionary& AsCpu(const PreparedDictionary& dictionary) {
  const auto* cpu = dynamic_cast<const Dictionary*>(&dictionary);
  LEXICO_CHECK(cpu != nullptr);
  return *cpu;
}

}  // namespace lexico::kernels::cpu

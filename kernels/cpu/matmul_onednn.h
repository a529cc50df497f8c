// Matrix products in BF16 through oneDNN, for CPUs with AVX512_BF16 or AMX.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels::cpu {

enum class Bf16UnitKind { kNone, kAvx512Bf16, kAmx };

// What this CPU has, as oneDNN may use it: ONEDNN_MAX_CPU_ISA=AVX2 in the environment makes it
// kNone, AVX512_CORE_BF16 hides AMX.
Bf16UnitKind Bf16Unit();
const char* Bf16UnitName(Bf16UnitKind unit);

// Makes oneDNN, which asks OpenMP, use `threads` threads on this thread while it lives.
class OneDnnThreads {
 public:
  explicit OneDnnThreads(int threads);
  ~OneDnnThreads();
  OneDnnThreads(const OneDnnThreads&) = delete;
  OneDnnThreads& operator=(const OneDnnThreads&) = delete;

 private:
  int before_;
};

// W [n_out, n_in] packed once in the form oneDNN chose for this CPU. Immutable.
class OneDnnMatrix {
 public:
  // REQUIRES: BF16 weights of equal n_in. Internal when oneDNN cannot multiply BF16 here.
  static absl::StatusOr<std::unique_ptr<OneDnnMatrix>> Make(std::span<const TensorView> weights,
                                                            int64_t n_out, int64_t n_in);
  ~OneDnnMatrix();
  size_t bytes() const;

  // y [n_rows, n_out] = x [n_rows, n_in] W^T, or added to y; x is rounded to BF16.
  void MatMul(const float* x, int64_t n_rows, float* y, bool accumulate, int threads) const;

 private:
  struct Packed;
  explicit OneDnnMatrix(std::unique_ptr<Packed> packed);
  std::unique_ptr<Packed> packed_;
};

}  // namespace lexico::kernels::cpu

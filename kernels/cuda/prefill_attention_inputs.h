// What the kernels of PrefillAttention read and write.
#pragma once

#include <cstdint>

#include "kernels/api/dense_attention.h"
#include "kernels/cuda/gpu.h"

namespace lexico::kernels::cuda {

struct PrefillInputs {
  const void* q;  // [n_queries, n_heads, head_dim]
  const void* k;  // [n_keys, n_kv_heads, head_dim]
  const void* v;
  void* out;
  DType q_type;
  DType out_type;
  int n_queries;
  int first_position;
  int n_heads;
  int n_kv_heads;
  int group;
  int head_dim;
  float scale;
};

// Products on tensor cores in the type of the name, one file each so that they compile side by
// side; FromF32: keys and values are F32 and rounded to BF16 on their way to shared memory.
void PrefillOnTensorCoresBf16(const Gpu& gpu, const PrefillInputs& in);
void PrefillOnTensorCoresBf16FromF32(const Gpu& gpu, const PrefillInputs& in);
void PrefillOnTensorCoresF16(const Gpu& gpu, const PrefillInputs& in);

// In F32 throughout; keys and values of `kv_type`.
void PrefillInF32(const Gpu& gpu, const PrefillInputs& in, DType kv_type);

}  // namespace lexico::kernels::cuda

// Definitions of DenseAttention and PrefillAttention (kernels/api/dense_attention.h), in double.
//
// A magnitude bounds how far F32 arithmetic may be off, in units of epsilon: the sum of |terms|,
// where a term exp(s) v counts 1 + |s| times, |s| being the sum of |terms| of its score, because an
// error e of a score becomes a relative error e of its exponential.
#pragma once

#include "kernels/api/dense_attention.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels::cpu::definition {

// Of the shapes of the outputs, F32.
struct DenseAttentionMagnitude {
  MutableTensorView out;
  MutableTensorView max_score;
  MutableTensorView sum_exp;
};

void DenseAttention(const DenseAttentionArgs& args, const DenseAttentionMagnitude& magnitude);

void PrefillAttention(const PrefillAttentionArgs& args, MutableTensorView magnitude);

}  // namespace lexico::kernels::cpu::definition

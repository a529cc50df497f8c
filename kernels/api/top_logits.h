// The best logits of each row and what a softmax over the whole row needs: what a sampler wants to
// know of a vocabulary without reading it. On a GPU it saves the way of [n_rows, n_vocab] logits to
// the host, 0.5 MB a row of a Llama-3 model.
#pragma once

#include <cstdint>

#include "kernels/api/stream.h"

namespace lexico::kernels {

// What a row is drawn with.
struct RowDraw {
  double temperature;  // > 0
  double uniform;      // in [0, 1)
};

// What is told of a row. `bad` and `max` come first: where bad >= 0 or max is -infinity, the rest
// means nothing.
struct RowSummary {
  // exp(logit - max) of all logits, and exp((logit - max) / temperature).
  double sum;
  double sum_at_temperature;
  float max;
  float drawn_logit;  // where drawn >= 0
  int32_t bad;        // a token whose logit is NaN or +infinity, or -1
  // The first token whose running sum of exp((logit - max) / temperature), in the order of ids,
  // exceeds uniform * sum_at_temperature; -1 where the rounding of the sums leaves it beyond the
  // last.
  int32_t drawn;
};

inline constexpr int kTopLogitsMax = 64;

struct TopLogitsArgs {
  const float* logits = nullptr;  // [n_rows, n_vocab]
  int64_t n_rows = 0;
  int64_t n_vocab = 0;
  // 1 .. kTopLogitsMax. Where a row has fewer tokens, the rest is (-infinity, -1).
  int n_top = 0;
  float* top = nullptr;             // [n_rows, n_top], the largest first
  int32_t* top_ids = nullptr;       // [n_rows, n_top]; of equal logits the smaller id first
  const RowDraw* draws = nullptr;   // [n_rows]
  RowSummary* summaries = nullptr;  // [n_rows]
};

// Sums are in double, so what is drawn is what a sum in another order would draw but for rounding
// at a boundary, some 2^-50 of the total. Deterministic.
void TopLogits(const TopLogitsArgs& args, const Stream& stream);

}  // namespace lexico::kernels

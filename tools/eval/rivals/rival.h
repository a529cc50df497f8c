// Other ways to make a KV cache smaller, as references for lexico-eval fidelity. They are made for
// comparing quality and counting bytes, in plain loops over F32 rows; nothing here serves.
//
//   kivi-4, kivi-2      asymmetric integers: keys in groups of 32 tokens of a channel, values in
//                       groups of 32 channels of a token (KIVI, arXiv 2402.02750)
//   token-4, token-2    the same integers, keys too in groups of 32 channels of a token
//   rotate-1 ... -3     a random rotation, then Lloyd-Max levels of a Gaussian with one scale a
//                       vector (TurboQuant, arXiv 2504.19874, its first stage); with the ending
//                       "-unbiased" the scale makes <x^, x> = <x, x>
//   snapkv[-N]          keeps the tokens that the newest queries attend to (SnapKV, 2404.14469)
//   streaming[-N]       keeps the first and the newest tokens (StreamingLLM, 2309.17453)
//   exact               keeps everything: what the comparison itself costs
//
// Evictions keep as many tokens as fit N bytes a vector, counted over all vectors there were.
// Without N they stand for one at each of the caller's budgets.
//
// Immutable; any thread may use one.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lexico::eval {

// The heads of one layer.
struct RowShape {
  int n_heads = 0;  // query heads, a multiple of n_kv_heads
  int n_kv_heads = 0;
  int head_dim = 0;

  int64_t row_dim() const { return static_cast<int64_t>(n_kv_heads) * head_dim; }
  // Of one vector of an exact cache.
  double fp16_bytes() const { return 2.0 * head_dim; }
};

// [n_tokens, n_kv_heads, head_dim] each; keys after RoPE.
struct LayerRows {
  std::vector<float> k;
  std::vector<float> v;
};

// What a method may look at: a layer's exact rows, oldest first.
struct LayerContext {
  RowShape shape;
  int64_t n_tokens = 0;  // the window's too
  int64_t n_coded = 0;   // the oldest: those to be replaced; a multiple of 32
  std::span<const float> k;
  std::span<const float> v;
  std::span<const float> q;  // [n_queries, n_heads, head_dim] of the newest tokens, after RoPE
};

class Rival {
 public:
  explicit Rival(std::string name) : name_(std::move(name)) {}
  virtual ~Rival() = default;
  Rival(const Rival&) = delete;
  Rival& operator=(const Rival&) = delete;

  const std::string& name() const { return name_; }
  // InvalidArgument with both values where the method cannot do a model's shape.
  virtual absl::Status Check(const RowShape& shape) const = 0;
  // Of one of n_coded vectors, on average: integers, scales and zero points; or the kept rows.
  virtual double BytesPerVector(const RowShape& shape, int64_t n_coded) const = 0;
  // Queries that Compress looks at.
  virtual int64_t n_queries() const { return 0; }
  // What stands in the place of the first n_coded rows: as many, or fewer.
  virtual LayerRows Compress(const LayerContext& context) const = 0;

 private:
  const std::string name_;
};

// The methods that `name` stands for: one, or for an eviction without N one at each of `budgets`,
// bytes a vector. NotFound names the known forms and the nearest; InvalidArgument an N that is no
// positive number.
absl::StatusOr<std::vector<std::unique_ptr<const Rival>>> ParseRival(std::string_view name,
                                                                     std::span<const int> budgets);

// For messages and help texts.
std::vector<std::string> RivalNames();

}  // namespace lexico::eval

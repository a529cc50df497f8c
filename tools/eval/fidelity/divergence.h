// How far one next-token distribution is from another.
#pragma once

#include <cstdint>
#include <span>

namespace lexico::eval {

struct Divergence {
  double kl = 0;         // sum of p (log p - log p'), nats; p is the reference's
  bool same_top = true;  // the most probable token is the same, the smallest id of equals
  double nll = 0;        // -log p'(target), nats
};

// Softmax of two rows of logits, [vocab_size] each, in double. REQUIRES: equal sizes, a target
// within them.
Divergence Diverge(std::span<const float> reference, std::span<const float> logits, int32_t target);

}  // namespace lexico::eval

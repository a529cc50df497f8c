#include "worker/engine/forward_context.h"

#include <cmath>

namespace lexico::worker {

float ForwardContext::attention_scale() const {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
}

}  // namespace lexico::worker

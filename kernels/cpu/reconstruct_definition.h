// Definition of Reconstruct, in double and in the order of the formula. Do not make it faster.
#pragma once

#include "kernels/api/reconstruct.h"

namespace lexico::kernels::definition {

// magnitude, shaped like out, receives sum_j |c_j d_{a_j}| of each element.
void Reconstruct(const ReconstructArgs& args, MutableTensorView magnitude);

}  // namespace lexico::kernels::definition

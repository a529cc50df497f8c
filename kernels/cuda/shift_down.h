#pragma once

#include "kernels/api/shift_down.h"

namespace lexico::kernels::cuda {

void ShiftDown(const ShiftDownArgs& args, const Stream& stream);

}  // namespace lexico::kernels::cuda

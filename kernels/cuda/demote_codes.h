#pragma once

#include "kernels/api/demote_codes.h"

namespace lexico::kernels::cuda {

void DemoteCodes(const DemoteCodesArgs& args, const Stream& stream);

}  // namespace lexico::kernels::cuda

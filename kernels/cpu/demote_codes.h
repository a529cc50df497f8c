// DemoteCodes on the CPU; arguments were checked by kernels/ops/demote_codes.cc.
#pragma once

#include "kernels/api/demote_codes.h"

namespace lexico::kernels::cpu {

void DemoteCodes(const DemoteCodesArgs& args, const Stream& stream);

}  // namespace lexico::kernels::cpu

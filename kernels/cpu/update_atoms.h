// UpdateAtoms on the CPU; arguments were checked by kernels/ops/update_atoms.cc.
#pragma once

#include "kernels/api/update_atoms.h"

namespace lexico::kernels::cpu {

void UpdateAtoms(const UpdateAtomsArgs& args, const Stream& stream);

}  // namespace lexico::kernels::cpu

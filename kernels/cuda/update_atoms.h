#pragma once

#include "kernels/api/update_atoms.h"

namespace lexico::kernels::cuda {

void UpdateAtoms(const UpdateAtomsArgs& args, const Stream& stream);

}  // namespace lexico::kernels::cuda

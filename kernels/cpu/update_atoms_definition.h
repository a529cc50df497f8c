// Definition of UpdateAtoms: formula order, double, no blocking. Do not make it faster: it is what
// "correct" means.
#pragma once

#include "kernels/api/update_atoms.h"

namespace lexico::kernels::definition {

// magnitude [n_atoms, head_dim] F32: how far rounding may move each number of args.rows, per unit
// of rounding. The sum of |terms|, and of each use the fixed point's unit, of every component and
// of the norm, by the norm.
void UpdateAtoms(const UpdateAtomsArgs& args, MutableTensorView magnitude);

}  // namespace lexico::kernels::definition

// Definition of DemoteCodes: x^ in double, then the definition of the pursuit among its own atoms.
#pragma once

#include "kernels/api/demote_codes.h"

namespace lexico::kernels::definition {

void DemoteCodes(const DemoteCodesArgs& args);

}  // namespace lexico::kernels::definition

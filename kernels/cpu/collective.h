// Collectives of ranks that are threads of this process: a barrier and pointers into each other's
// arrays.
#pragma once

#include <memory>
#include <vector>

#include "kernels/api/collective.h"

namespace lexico::kernels::cpu {

// As kernels::MakeCommunicators. REQUIRES: size >= 2.
std::vector<std::shared_ptr<Communicator>> MakeCommunicators(int size);

}  // namespace lexico::kernels::cpu

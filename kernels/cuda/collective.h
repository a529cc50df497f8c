// Collectives over NCCL, between GPUs of this machine.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "kernels/api/collective.h"

namespace lexico::kernels::cuda {

// As kernels::MakeCommunicators. REQUIRES: at least two streams, all of GPUs.
absl::StatusOr<std::vector<std::shared_ptr<Communicator>>> MakeCommunicators(
    std::span<const Stream> streams);

}  // namespace lexico::kernels::cuda

// What a machine must have for the GPU kernels of this build, decided from numbers. In builds
// without CUDA too, for the tests.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace lexico::kernels::cuda {

// Versions as CUDA writes them: 13020 is 13.2; `driver`: the newest CUDA that the driver knows, 0
// without a driver. A driver serves every CUDA of its own major version and older ones.
// Unavailable: no driver; FailedPrecondition: too old, with both versions.
absl::Status CheckDriver(int driver, int runtime);

// Unavailable: no GPU of that number, with how many there are.
absl::Status CheckOrdinal(int ordinal, int n_devices);

// FailedPrecondition: older than the oldest GPU that has kernels, with both capabilities.
absl::Status CheckCapability(const std::string& name, int major, int minor);

}  // namespace lexico::kernels::cuda

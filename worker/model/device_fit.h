// Whether a model fits a device, before minutes are spent on loading it.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"

namespace lexico::worker {

// ResourceExhausted unless weights of `needed` bytes leave something of the `free` bytes of a
// device: with both, and with what would fit. What sessions need besides is the engine's to say.
absl::Status CheckWeightsFit(const std::string& device, size_t needed, size_t free);

}  // namespace lexico::worker

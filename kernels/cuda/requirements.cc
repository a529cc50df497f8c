#include "kernels/cuda/requirements.h"

#include <fmt/format.h>

namespace lexico::kernels::cuda {
namespace {

// The oldest architecture that tools/cmake/Dependencies.cmake compiles for; newer ones without
// kernels of their own have the driver compile these.
constexpr int kCapabilityMajorMin = 8;

std::string Version(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

}  // namespace

absl::Status CheckDriver(int driver, int runtime) {
  if (driver == 0) {
    return absl::UnavailableError("no NVIDIA driver is installed, so there is no GPU to use");
  }
  if (driver / 1000 >= runtime / 1000) return absl::OkStatus();
  return absl::FailedPreconditionError(
      fmt::format("the NVIDIA driver knows CUDA {} at most, this build uses CUDA {}; install a "
                  "driver for CUDA {}.0 or newer",
                  Version(driver), Version(runtime), runtime / 1000));
}

absl::Status CheckOrdinal(int ordinal, int n_devices) {
  if (ordinal >= 0 && ordinal < n_devices) return absl::OkStatus();
  return absl::UnavailableError(
      fmt::format("no GPU cuda:{}: this machine has {}{}", ordinal, n_devices,
                  n_devices == 0   ? ""
                  : n_devices == 1 ? ", cuda:0"
                                   : fmt::format(", cuda:0 to cuda:{}", n_devices - 1)));
}

absl::Status CheckCapability(const std::string& name, int major, int minor) {
  if (major >= kCapabilityMajorMin) return absl::OkStatus();
  return absl::FailedPreconditionError(
      fmt::format("{} has compute capability {}.{}, this build has kernels for {}.0 (A100) and "
                  "newer; use another GPU or --device cpu",
                  name, major, minor, kCapabilityMajorMin));
}

}  // namespace lexico::kernels::cuda

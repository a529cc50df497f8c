#include "worker/model/device_fit.h"

#include <fmt/format.h>

#include "proto/base/options.h"

namespace lexico::worker {
namespace {

// Of the free memory, what weights may take at most so that there is room for dictionaries,
// working memory and sessions of some use.
constexpr double kShare = 0.9;

}  // namespace

absl::Status CheckWeightsFit(const std::string& device, size_t needed, size_t free) {
  const double room = kShare * static_cast<double>(free);
  if (static_cast<double>(needed) <= room) return absl::OkStatus();
  return absl::ResourceExhaustedError(fmt::format(
      "{} has {} free, the weights need {} and sessions a tenth of it; weights of {} would fit, "
      "{:.1f} billion numbers of 16 bits: choose a smaller model or a GPU with more memory, or end "
      "what else uses this one (nvidia-smi)",
      device, base::HumanBytes(static_cast<double>(free)),
      base::HumanBytes(static_cast<double>(needed)), base::HumanBytes(room), room / 2e9));
}

}  // namespace lexico::worker

#include "kernels/api/collective.h"

#include "kernels/cpu/collective.h"
#include "kernels/cuda/collective.h"
#include "proto/base/check.h"

namespace lexico::kernels {

absl::StatusOr<std::vector<std::shared_ptr<Communicator>>> MakeCommunicators(
    std::span<const Stream> streams) {
  LEXICO_CHECK(!streams.empty());
  for (const Stream& stream : streams) LEXICO_CHECK(stream.kind() == streams[0].kind());
  if (streams.size() == 1) return std::vector<std::shared_ptr<Communicator>>(1);
  switch (streams[0].kind()) {
    case DeviceKind::kCpu:
      return cpu::MakeCommunicators(static_cast<int>(streams.size()));
    case DeviceKind::kCuda:
      return cuda::MakeCommunicators(streams);
  }
  LEXICO_UNREACHABLE();
}

}  // namespace lexico::kernels

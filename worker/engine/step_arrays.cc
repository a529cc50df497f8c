#include "worker/engine/step_arrays.h"

#include <algorithm>

#include "proto/base/check.h"
#include "proto/base/status.h"

namespace lexico::worker {

absl::Status StepArrays::Reserve(size_t bytes) {
  LEXICO_ASSIGN_OR_RETURN(host_, kernels::HostBuffer::Allocate(bytes, stream_));
  if (on_host()) return absl::OkStatus();
  LEXICO_ASSIGN_OR_RETURN(device_, kernels::DeviceBuffer::Allocate(bytes, stream_));
  return absl::OkStatus();
}

void StepArrays::Begin(size_t bytes) {
  taken_ = 0;
  if (bytes <= host_.bytes()) return;
  LEXICO_CHECK(on_host());
  const absl::Status grown = Reserve(std::max(bytes, 2 * host_.bytes()));
  LEXICO_CHECK(grown.ok());
}

size_t StepArrays::Take(size_t bytes) {
  LEXICO_CHECK_LE(taken_ + bytes, host_.bytes());
  const size_t offset = taken_;
  taken_ += bytes;
  return offset;
}

void StepArrays::Upload() {
  if (!on_host()) stream_.UploadAsync(device_.as<char>(), host(), taken_);
}

}  // namespace lexico::worker

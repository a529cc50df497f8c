#include "kernels/api/shift_down.h"

#include <cstring>

#include "kernels/cuda/shift_down.h"
#include "proto/base/check.h"

namespace lexico::kernels {

void ShiftDown(const ShiftDownArgs& args, const Stream& stream) {
  LEXICO_CHECK_GE(args.n_parts, int64_t{0});
  LEXICO_CHECK_GT(args.shift, size_t{0});
  LEXICO_CHECK_GE(args.part_stride, args.shift + args.kept);
  LEXICO_CHECK_EQ(
      (reinterpret_cast<uintptr_t>(args.base) | args.part_stride | args.shift | args.kept) % 16,
      size_t{0});

  if (args.n_parts == 0 || args.kept == 0) return;
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      for (int64_t i = 0; i < args.n_parts; ++i) {
        uint8_t* part = args.base + i * args.part_stride;
        std::memmove(part, part + args.shift, args.kept);
      }
      return;
    case DeviceKind::kCuda:
      return cuda::ShiftDown(args, stream);
  }
  LEXICO_UNREACHABLE();
}

}  // namespace lexico::kernels

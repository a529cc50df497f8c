// What a GPU can do at best, measured, to stand beside the speed of the kernels.
#pragma once

#include "kernels/api/stream.h"

namespace lexico::kernels::cuda {

struct GpuCeilings {
  double copy_gb_per_s = 0;    // device to device, bytes read and bytes written
  double f32_gflop_per_s = 0;  // independent multiply-adds in registers (2 FLOP each)
};

// Takes 1 GiB of device memory and about 0.1 s.
GpuCeilings MeasureCeilings(const Stream& stream);

}  // namespace lexico::kernels::cuda

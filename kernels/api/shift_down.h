// Drops the oldest rows of windows: what a sealing leaves behind moves to the front.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/api/stream.h"

namespace lexico::kernels {

// In each of n_parts parts, which lie part_stride bytes apart, the `kept` bytes after the first
// `shift` move to its beginning; the ranges may overlap. `base` and all sizes are multiples of 16.
struct ShiftDownArgs {
  uint8_t* base = nullptr;
  int64_t n_parts = 0;
  size_t part_stride = 0;  // >= shift + kept
  size_t shift = 0;        // > 0
  size_t kept = 0;
};

void ShiftDown(const ShiftDownArgs& args, const Stream& stream);

}  // namespace lexico::kernels

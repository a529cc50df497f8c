// Arrays of the benchmarks on a GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/api/device_buffer.h"
#include "kernels/api/stream.h"
#include "kernels/api/tensor.h"

namespace lexico::kernels::bench {

DeviceBuffer AllocateOn(size_t bytes, const Stream& stream);

// n normal numbers of F32 or BF16, which repeat after about a million: real data is not zeros, and
// drawing a billion takes minutes.
DeviceBuffer RandomOn(int64_t n, DType type, const Stream& stream);
// The same in host memory, BF16.
std::vector<uint16_t> RandomBf16(int64_t n);

template <typename T>
DeviceBuffer UploadTo(const std::vector<T>& values, const Stream& stream) {
  DeviceBuffer buffer = AllocateOn(values.size() * sizeof(T), stream);
  buffer.CopyFrom(values.data(), values.size() * sizeof(T));
  return buffer;
}

}  // namespace lexico::kernels::bench

// An array of a test in the memory of a stream.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <utility>
#include <vector>

#include "kernels/api/device_buffer.h"
#include "kernels/api/stream.h"
#include "kernels/api/tensor.h"
#include "proto/base/check.h"

namespace lexico::tests {

template <typename T>
class DeviceArray {
 public:
  DeviceArray(const std::vector<T>& values, const kernels::Stream& stream)
      : n_(values.size()), stream_(stream) {
    auto buffer = kernels::DeviceBuffer::Allocate(n_ * sizeof(T), stream);
    LEXICO_CHECK(buffer.ok());
    buffer_ = *std::move(buffer);
    buffer_.CopyFrom(values.data(), n_ * sizeof(T));
  }

  T* data() const { return buffer_.as<T>(); }
  kernels::MutableTensorView View(std::initializer_list<int64_t> shape) const {
    return kernels::MutableTensorView(data(), shape);
  }
  // Of bytes or 16-bit numbers that mean F16 or BF16.
  kernels::MutableTensorView View(kernels::DType type, std::initializer_list<int64_t> shape) const {
    return kernels::MutableTensorView(data(), type, shape);
  }
  std::vector<T> Values() const {
    std::vector<T> values(n_);
    buffer_.CopyTo(values.data(), n_ * sizeof(T));
    return values;
  }

 private:
  size_t n_;
  kernels::Stream stream_;
  kernels::DeviceBuffer buffer_;
};

}  // namespace lexico::tests

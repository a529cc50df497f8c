// Views of arrays: what every op takes. A view owns nothing and is always contiguous, row-major
// [outer, ..., inner]. Shapes are written with the dimension words of docs/ARCHITECTURE.md.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "proto/base/check.h"

namespace lexico::kernels {

// Values reach page headers and manifests: do not change them.
enum class DType : uint8_t { kF32 = 0, kF16 = 1, kBF16 = 2, kI32 = 3, kU16 = 4, kU8 = 5 };

constexpr size_t DTypeBytes(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
    case DType::kU16:
      return 2;
    case DType::kU8:
      return 1;
  }
  return 0;
}

const char* DTypeName(DType dtype);

template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOf<uint16_t> {  // U16, and the storage of F16 and BF16
  static constexpr DType value = DType::kU16;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::kU8;
};

struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int rank = 0;
  std::array<int64_t, 4> shape{};

  TensorView() = default;
  TensorView(const void* d, DType t, std::initializer_list<int64_t> dims) : data(d), dtype(t) {
    LEXICO_CHECK_LE(dims.size(), shape.size());
    for (const int64_t dim : dims) shape[rank++] = dim;
  }
  template <typename T>
  TensorView(const T* d, std::initializer_list<int64_t> dims)
      : TensorView(d, DTypeOf<T>::value, dims) {}

  int64_t dim(int i) const {
    LEXICO_CHECK_LT(i, rank);
    return shape[i];
  }
  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
  size_t size_bytes() const { return static_cast<size_t>(size()) * DTypeBytes(dtype); }
  bool empty() const { return size() == 0; }

  template <typename T>
  const T* as() const {
    LEXICO_CHECK_EQ(sizeof(T), DTypeBytes(dtype));
    return static_cast<const T*>(data);
  }
};

// A view that is written through.
struct MutableTensorView : TensorView {
  MutableTensorView() = default;
  MutableTensorView(void* d, DType t, std::initializer_list<int64_t> dims)
      : TensorView(d, t, dims) {}
  template <typename T>
  MutableTensorView(T* d, std::initializer_list<int64_t> dims)
      : TensorView(d, DTypeOf<T>::value, dims) {}

  template <typename T>
  T* as_mutable() const {
    LEXICO_CHECK_EQ(sizeof(T), DTypeBytes(dtype));
    return static_cast<T*>(const_cast<void*>(data));
  }
};

}  // namespace lexico::kernels

// A dictionary on the GPU: F32 rows, padded with zeros to whole float4. One form serves all ops:
// 2 MiB at 4096 x 128, which stays in L2 while an op reads it many times.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/api/device_buffer.h"
#include "kernels/api/dictionary.h"

namespace lexico::kernels::cuda {

class Dictionary final : public PreparedDictionary {
 public:
  Dictionary(int n_atoms, int head_dim, DeviceBuffer rows)
      : PreparedDictionary(n_atoms, head_dim), rows_(std::move(rows)) {}

  size_t bytes() const override { return rows_.bytes(); }

  // On the device. Row a at rows() + a * row_stride(); 0 from head_dim on.
  const float* rows() const { return rows_.as<float>(); }
  int row_stride() const { return RowStride(head_dim()); }
  static int RowStride(int head_dim) { return (head_dim + 3) / 4 * 4; }

 private:
  DeviceBuffer rows_;
};

// As kernels/api/dictionary.h; ResourceExhausted where the device has too little memory.
absl::StatusOr<std::shared_ptr<const PreparedDictionary>> PrepareDictionary(TensorView dictionary,
                                                                            const Stream& stream);

// The GPU's form behind the interface; CHECK-fails for a dictionary that another device prepared.
const Dictionary& AsCuda(const PreparedDictionary& dictionary);

}  // namespace lexico::kernels::cuda

// kernels/api/matmul.h on a GPU.
#pragma once

#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/api/matmul.h"

namespace lexico::kernels::cuda {

absl::StatusOr<std::shared_ptr<const PreparedMatrix>> PrepareMatrix(
    std::span<const TensorView> weights, const Stream& stream);
void MatMul(TensorView x, const PreparedMatrix& w, MutableTensorView y, bool accumulate,
            const Stream& stream);

}  // namespace lexico::kernels::cuda

#include "kernels/cuda/check.h"

#include "proto/base/check.h"

namespace lexico::kernels::cuda {

void CudaFailed(cudaError_t error, const std::string& what, const char* file, int line) {
  base::CheckFailed(file, line,
                    what + ": " + cudaGetErrorName(error) + ", " + cudaGetErrorString(error));
}

}  // namespace lexico::kernels::cuda

// A thread a number, a row of blocks a row; bound by memory.
#include "kernels/cuda/join_columns.h"
#include "kernels/cuda/launch.h"

namespace lexico::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void JoinColumnsKernel(const float* blocks, int64_t n_rows, int64_t width, int64_t part,
                                  float* out) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= width) return;
  const int64_t row = blockIdx.y;
  const int64_t begin = column / part * part;
  const int64_t count = begin + part <= width ? part : width - begin;
  out[row * width + column] = blocks[begin * n_rows + row * count + column - begin];
}

}  // namespace

void JoinColumns(const Gpu& gpu, const float* blocks, int64_t n_rows, int64_t width, int64_t part,
                 float* out) {
  Launch(
      gpu, JoinColumnsKernel,
      {.kernel = "JoinColumns",
       .blocks = {static_cast<unsigned>(CeilDiv(width, kThreads)), static_cast<unsigned>(n_rows)},
       .threads = kThreads},
      blocks, n_rows, width, part, out);
}

}  // namespace lexico::kernels::cuda

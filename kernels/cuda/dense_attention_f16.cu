#include "kernels/cuda/dense_attention_chunk.cuh"

namespace lexico::kernels::cuda {

void LaunchChunksF16(const Gpu& gpu, const DensePlan& plan, const DenseInputs& in,
                     const DenseOutputs& to) {
  LaunchChunks<__half>(gpu, plan, in, to);
}

}  // namespace lexico::kernels::cuda

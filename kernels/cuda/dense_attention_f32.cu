#include "kernels/cuda/dense_attention_chunk.cuh"

namespace lexico::kernels::cuda {

void LaunchChunksF32(const Gpu& gpu, const DensePlan& plan, const DenseInputs& in,
                     const DenseOutputs& to) {
  LaunchChunks<float>(gpu, plan, in, to);
}

}  // namespace lexico::kernels::cuda

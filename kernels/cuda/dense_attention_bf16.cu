#include "kernels/cuda/dense_attention_chunk.cuh"

namespace lexico::kernels::cuda {

void LaunchChunksBf16(const Gpu& gpu, const DensePlan& plan, const DenseInputs& in,
                      const DenseOutputs& to) {
  LaunchChunks<__nv_bfloat16>(gpu, plan, in, to);
}

}  // namespace lexico::kernels::cuda

#include "kernels/cuda/prefill_attention_tensor.cuh"

namespace lexico::kernels::cuda {

void PrefillOnTensorCoresBf16FromF32(const Gpu& gpu, const PrefillInputs& in) {
  LaunchPrefillFor<__nv_bfloat16, float>(gpu, in);
}

}  // namespace lexico::kernels::cuda

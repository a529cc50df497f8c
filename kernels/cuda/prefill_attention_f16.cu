#include "kernels/cuda/prefill_attention_tensor.cuh"

namespace lexico::kernels::cuda {

void PrefillOnTensorCoresF16(const Gpu& gpu, const PrefillInputs& in) {
  LaunchPrefillFor<__half, __half>(gpu, in);
}

}  // namespace lexico::kernels::cuda

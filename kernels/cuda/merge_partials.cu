// One thread an element of `out`. Every thread forms the weights of its row anew, in double and in
// the order of the parts, as the definition does (kernels/cpu/merge_partials.cc): at most a few
// parts, so a second pass or shared memory would save nothing. No barriers, no shared memory;
// deterministic, and an output that is one of the parts is read by the thread that overwrites it.
#include <cmath>

#include "kernels/cuda/groups.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/merge_partials.h"
#include "kernels/cuda/overlap.cuh"
#include "proto/base/check.h"

namespace lexico::kernels::cuda {
namespace {

struct Parts {
  int n;
  struct {
    const float* out;        // [n_rows, head_dim]
    const float* max_score;  // [n_rows]
    const float* sum_exp;    // [n_rows]
  } part[kMergePartsMax];
};

constexpr int kThreads = 256;

template <typename To>
__global__ void MergeKernel(const __grid_constant__ Parts parts, int64_t n_elements, int head_dim,
                            To* out) {
  WaitForPrevious();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n_elements) return;
  const int64_t row = i / head_dim;
  double max = -INFINITY;
  for (int p = 0; p < parts.n; ++p) {
    max = fmax(max, static_cast<double>(parts.part[p].max_score[row]));
  }
  double sum = 0;
  double value = 0;
  for (int p = 0; p < parts.n; ++p) {
    const float score = parts.part[p].max_score[row];
    // An empty part is not read: its sums may be anything.
    const double weight = score == -INFINITY ? 0.0 : exp(score - max);
    if (weight == 0) continue;
    sum += weight * parts.part[p].sum_exp[row];
    value += weight * parts.part[p].out[i];
  }
  out[i] = Narrow<To>(sum == 0 ? 0.0f : static_cast<float>(value / sum));
}

}  // namespace

void MergePartials(std::span<const AttentionPart> parts, MutableTensorView out,
                   const Stream& stream) {
  LEXICO_CHECK_LE(parts.size(), static_cast<size_t>(kMergePartsMax));
  Parts arguments;
  arguments.n = static_cast<int>(parts.size());
  for (int p = 0; p < arguments.n; ++p) {
    arguments.part[p] = {parts[p].out.as<float>(), parts[p].max_score.as<float>(),
                         parts[p].sum_exp.as<float>()};
  }
  const int64_t n = out.size();
  WithType(out.dtype, [&](auto zero) {
    using To = decltype(zero);
    Launch(GpuOf(stream), MergeKernel<To>,
           {"MergePartials", dim3(CeilDiv(n, kThreads)), kThreads, 0, kOverlaps}, arguments, n,
           static_cast<int>(out.dim(2)), out.as_mutable<To>());
  });
}

}  // namespace lexico::kernels::cuda

#include <algorithm>
#include <vector>

#include "kernels/api/device_buffer.h"
#include "kernels/cuda/ceilings.h"
#include "kernels/cuda/launch.h"
#include "proto/base/check.h"

namespace lexico::kernels::cuda {
namespace {

constexpr size_t kCopyBytes = size_t{512} << 20;  // ten times an L2 of 50 MB
constexpr int kThreads = 1024;
constexpr int kRounds = 10'000;
constexpr int kChains = 8;  // independent, which hides the latency of a multiply-add

__global__ void MultiplyAddKernel(float* sink) {
  float values[kChains];
  for (int c = 0; c < kChains; ++c) values[c] = threadIdx.x + c;
#pragma unroll 16
  for (int i = 0; i < kRounds; ++i) {
#pragma unroll
    for (int c = 0; c < kChains; ++c) values[c] = fmaf(values[c], 0.999f, 0.001f);
  }
  float sum = 0;
  for (int c = 0; c < kChains; ++c) sum += values[c];
  sink[blockIdx.x * kThreads + threadIdx.x] = sum;
}

double BestSeconds(const Stream& stream, const std::function<void()>& body) {
  const std::vector<double> us = stream.device()->ReplayMicroseconds(body, 10);
  return 1e-6 * *std::min_element(us.begin(), us.end());
}

}  // namespace

GpuCeilings MeasureCeilings(const Stream& stream) {
  const Gpu& gpu = GpuOf(stream);
  auto from = DeviceBuffer::Allocate(kCopyBytes, stream);
  auto to = DeviceBuffer::Allocate(kCopyBytes, stream);
  LEXICO_CHECK(from.ok());
  LEXICO_CHECK(to.ok());
  GpuCeilings ceilings;
  const double copy_seconds = BestSeconds(stream, [&] {
    LEXICO_CUDA_CHECK(cudaMemcpyAsync(to->as<void>(), from->as<void>(), kCopyBytes,
                                      cudaMemcpyDeviceToDevice, gpu.stream()));
  });
  ceilings.copy_gb_per_s = 2e-9 * kCopyBytes / copy_seconds;

  const int n_blocks = 8 * gpu.n_multiprocessors();
  const double fma_seconds = BestSeconds(stream, [&] {
    Launch(gpu, MultiplyAddKernel, {"MultiplyAdd", dim3(n_blocks), kThreads}, to->as<float>());
  });
  ceilings.f32_gflop_per_s = 2e-9 * n_blocks * kThreads * kRounds * kChains / fma_seconds;
  return ceilings;
}

}  // namespace lexico::kernels::cuda

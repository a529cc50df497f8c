// How a process ends when a CUDA call fails. The second half needs a GPU and is skipped without.
#include <gtest/gtest.h>

#include <csignal>

#include "kernels/api/elementwise.h"
#include "kernels/api/stream.h"
#include "kernels/cuda/check.h"

namespace lexico::kernels::cuda {
namespace {

class CudaCheckDeathTest : public testing::Test {
 protected:
  // A GPU's context does not survive fork.
  CudaCheckDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(CudaCheckDeathTest, AGpuThatHasFailedEndsTheProcessWithAReasonAndStatusOne) {
  for (const cudaError_t error : {cudaErrorECCUncorrectable, cudaErrorNvlinkUncorrectable,
                                  cudaErrorDevicesUnavailable, cudaErrorUnknown}) {
    EXPECT_EXIT(CudaFailed(error, "cudaStreamSynchronize(stream_)", "gpu.cc", 7),
                testing::ExitedWithCode(1),
                std::string("the GPU has failed: cudaStreamSynchronize.stream_.: ") +
                    cudaGetErrorName(error) + ".* at gpu.cc:7");
  }
}

TEST_F(CudaCheckDeathTest, AMistakeOfOursAborts) {
  EXPECT_EXIT(CudaFailed(cudaErrorIllegalAddress, "launch of kernel X", "x.cu", 7),
              testing::KilledBySignal(SIGABRT),
              "CHECK failed: launch of kernel X: cudaErrorIllegalAddress, .* at x.cu:7");
}

TEST_F(CudaCheckDeathTest, AKernelThatFailsInTheMiddleOfAStepEndsTheProcess) {
  if (const auto stream = Stream::Open("cuda", 0); !stream.ok()) {
    GTEST_SKIP() << stream.status();
  }
  const auto fail = [] {
    const Stream stream = *Stream::Open("cuda", 0);
    Convert({reinterpret_cast<void*>(256), DType::kBF16, {64}},
            {reinterpret_cast<float*>(512), {64}}, stream);
    stream.Synchronize();
  };
  EXPECT_EXIT(fail(), testing::KilledBySignal(SIGABRT),
              "cudaStreamSynchronize.stream_.: cudaErrorIllegalAddress");
}

}  // namespace
}  // namespace lexico::kernels::cuda

// What a machine is told that cannot run the GPU kernels. Runs anywhere.
#include <gtest/gtest.h>

#include "kernels/cuda/requirements.h"
#include "tests/support/status_matchers.h"

namespace lexico::kernels::cuda {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;

TEST(CudaRequirements, ADriverOfTheSameMajorVersionOrANewerOneWillDo) {
  for (const int driver : {13000, 13020, 14000}) EXPECT_THAT(CheckDriver(driver, 13000), IsOk());
  EXPECT_THAT(CheckDriver(13000, 13020), IsOk());
  EXPECT_THAT(CheckDriver(12080, 13000),
              StatusIs(StatusCode::kFailedPrecondition,
                       "knows CUDA 12.8 at most, this build uses CUDA 13.0; install a driver for "
                       "CUDA 13.0 or newer"));
  EXPECT_THAT(CheckDriver(0, 13000), StatusIs(StatusCode::kUnavailable, "no NVIDIA driver"));
}

TEST(CudaRequirements, AGpuThatIsNotThereIsSaidWithThoseThatAre) {
  EXPECT_THAT(CheckOrdinal(0, 1), IsOk());
  EXPECT_THAT(CheckOrdinal(3, 4), IsOk());
  EXPECT_THAT(CheckOrdinal(0, 0),
              StatusIs(StatusCode::kUnavailable, "no GPU cuda:0: this machine has 0"));
  EXPECT_THAT(CheckOrdinal(1, 1),
              StatusIs(StatusCode::kUnavailable, "no GPU cuda:1: this machine has 1, cuda:0"));
  EXPECT_THAT(CheckOrdinal(8, 8), StatusIs(StatusCode::kUnavailable, "has 8, cuda:0 to cuda:7"));
}

TEST(CudaRequirements, AGpuOlderThanTheKernelsIsRefused) {
  for (const auto& [major, minor] : {std::pair(8, 0), {8, 6}, {8, 9}, {9, 0}, {10, 0}, {12, 1}}) {
    EXPECT_THAT(CheckCapability("cuda:0 X", major, minor), IsOk());
  }
  EXPECT_THAT(
      CheckCapability("cuda:0 Tesla T4", 7, 5),
      StatusIs(StatusCode::kFailedPrecondition,
               "cuda:0 Tesla T4 has compute capability 7.5, this build has kernels for 8.0"));
  EXPECT_FALSE(CheckCapability("cuda:0 X", 6, 1).ok());
}

}  // namespace
}  // namespace lexico::kernels::cuda

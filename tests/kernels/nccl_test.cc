// Where NCCL is looked for, and what is said where it is not. Needs no GPU.
#include "kernels/cuda/nccl.h"

#include <gmock/gmock.h>

#include <csignal>
#include <cstdlib>
#include <string>
#include <vector>

namespace lexico::kernels::cuda {
namespace {

using testing::HasSubstr;

TEST(NcclTest, AMissingLibraryIsUnavailableWithTheLoadersWords) {
  const auto nccl = LoadNcclFrom(std::vector<std::string>{"libnowhere.so.1", "/no/such/file.so"});
  EXPECT_EQ(nccl.status().code(), absl::StatusCode::kUnavailable);
  const std::string message(nccl.status().message());
  EXPECT_THAT(message, HasSubstr("libnowhere.so.1"));
  EXPECT_THAT(message, HasSubstr("/no/such/file.so"));
  EXPECT_THAT(message, HasSubstr("install NCCL 2"));
}

TEST(NcclTest, AnotherLibraryUnderItsNameIsRefused) {
  const auto nccl = LoadNcclFrom(std::vector<std::string>{"libc.so.6"});
  EXPECT_EQ(nccl.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(nccl.status().message()), HasSubstr("libc.so.6 lacks functions of NCCL"));
}

TEST(NcclTest, IsLoadedOnceWhereItIsWithoutMulticast) {
  const auto first = LoadNccl();
  ASSERT_NE(std::getenv("NCCL_NVLS_ENABLE"), nullptr);
  EXPECT_STREQ(std::getenv("NCCL_NVLS_ENABLE"), "0");
  if (!first.ok()) GTEST_SKIP() << first.status().message();
  EXPECT_EQ(*LoadNccl(), *first);
  EXPECT_THAT(std::string((*first)->error_string(ncclInvalidUsage)), HasSubstr("usage"));
}

TEST(NcclTest, AFailureEndsTheProcessWithTheCallAndTheReason) {
  const auto nccl = LoadNccl();
  if (!nccl.ok()) GTEST_SKIP() << nccl.status().message();
  CheckNccl(**nccl, ncclSuccess, nullptr, "ncclAllReduce");
  EXPECT_EXIT(CheckNccl(**nccl, ncclRemoteError, nullptr, "ncclAllReduce"),
              testing::ExitedWithCode(1), "the GPU has failed: ncclAllReduce: remote process");
  EXPECT_EXIT(CheckNccl(**nccl, ncclInvalidUsage, nullptr, "ncclAllReduce"),
              testing::KilledBySignal(SIGABRT), "CHECK failed: ncclAllReduce: invalid usage");
}

}  // namespace
}  // namespace lexico::kernels::cuda

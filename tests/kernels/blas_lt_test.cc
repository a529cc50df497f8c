// Where cuBLASLt is looked for, and what is said where it is not. Needs no GPU.
#include "kernels/cuda/blas_lt.h"

#include <gmock/gmock.h>

#include <string>
#include <vector>

namespace lexico::kernels::cuda {
namespace {

using testing::HasSubstr;

TEST(BlasLtTest, AMissingLibraryIsUnavailableWithTheLoadersWords) {
  const auto lt = LoadBlasLtFrom(std::vector<std::string>{"libnowhere.so.1", "/no/such/file.so"});
  EXPECT_EQ(lt.status().code(), absl::StatusCode::kUnavailable);
  const std::string message(lt.status().message());
  EXPECT_THAT(message, HasSubstr("libnowhere.so.1"));
  EXPECT_THAT(message, HasSubstr("/no/such/file.so"));
  EXPECT_THAT(message, HasSubstr("LD_LIBRARY_PATH"));
}

TEST(BlasLtTest, AnotherLibraryUnderItsNameIsRefused) {
  const auto lt = LoadBlasLtFrom(std::vector<std::string>{"libc.so.6"});
  EXPECT_EQ(lt.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(lt.status().message()), HasSubstr("libc.so.6 lacks functions"));
}

TEST(BlasLtTest, IsLoadedOnceWhereItIs) {
  const auto first = LoadBlasLt();
  if (!first.ok()) GTEST_SKIP() << first.status().message();
  EXPECT_EQ(*LoadBlasLt(), *first);
  EXPECT_THAT(std::string((*first)->status_string(CUBLAS_STATUS_NOT_SUPPORTED)),
              HasSubstr("not supported"));
}

}  // namespace
}  // namespace lexico::kernels::cuda

#include "worker/options.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/status_matchers.h"

namespace lexico::worker {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;

absl::Status Parse(std::vector<const char*> flags, WorkerOptions* options) {
  std::vector<const char*> argv = {"lexico-worker", "--model", "models/some"};
  argv.insert(argv.end(), flags.begin(), flags.end());
  return ParseWorkerOptions(static_cast<int>(argv.size()), argv.data(), options);
}

TEST(WorkerOptionsTest, TheDeviceDecidesOnTheMemory) {
  WorkerOptions cpu;
  ASSERT_THAT(Parse({}, &cpu), IsOk());
  EXPECT_EQ(cpu.device, "cpu");
  EXPECT_EQ(cpu.model_name, "some");
  EXPECT_GT(cpu.kv_memory_bytes, 0u);
  WorkerOptions gpu;
  ASSERT_THAT(Parse({"--device", "cuda:1", "--prefill_memory", "3GiB"}, &gpu), IsOk());
  EXPECT_EQ(gpu.tensor_parallel, 1);
  EXPECT_EQ(gpu.kv_memory_bytes, 0u);  // what the weights leave
  EXPECT_EQ(gpu.prefill_memory_bytes, size_t{3} << 30);
  EXPECT_TRUE(gpu.decode_graphs);
  ASSERT_THAT(Parse({"--device", "cuda", "--no_graphs"}, &gpu), IsOk());
  EXPECT_FALSE(gpu.decode_graphs);
}

TEST(WorkerOptionsTest, WrongValuesAreNamedWithTheirFlag) {
  const struct {
    std::vector<const char*> flags;
    const char* expected;
  } cases[] = {{{"--device", "gpu"}, "--device: device 'gpu' is none of cpu, cuda"},
               {{"--device", "cuda:x"}, "--device"},
               {{"--tensor_parallel", "0"}, "--tensor_parallel"},
               {{"--tensor_parallel", "9"}, "--tensor_parallel"},
               {{"--kv_memory", "3x"}, "--kv_memory: '3x'"},
               {{"--kv_memory", "0"}, "--kv_memory: 0 has no room"},
               {{"--prefill_memory", "-1"}, "--prefill_memory"},
               {{"--address", "127.0.0.1:65536"}, "--address"},
               {{"--metrics_address", "nowhere"}, "--metrics_address"},
               {{"--coordinator", "10.0.0.1:0"}, "--coordinator"},
               {{"--store", "10.0.0.1:x"}, "--store"},
               {{"--advertise_address", ":1"}, "--advertise_address"}};
  for (const auto& [flags, expected] : cases) {
    WorkerOptions options;
    EXPECT_THAT(Parse(flags, &options), StatusIs(StatusCode::kInvalidArgument, expected))
        << flags[1];
  }
}

}  // namespace
}  // namespace lexico::worker

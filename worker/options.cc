#include "worker/options.h"

#include <filesystem>
#include <fstream>
#include <utility>

#include "kernels/api/stream.h"
#include "proto/base/limits.h"
#include "proto/base/options.h"
#include "proto/base/status.h"

namespace lexico::worker {
namespace {

constexpr size_t kKvMemoryWithoutMeminfo = size_t{1} << 30;

// MemAvailable of /proc/meminfo, 0 where there is none.
size_t AvailableBytes() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  size_t kib = 0;
  while (file >> key >> kib) {
    if (key == "MemAvailable:") return kib * 1024;
    file.ignore(64, '\n');
  }
  return 0;
}

// Sizes as they were given.
struct Sizes {
  std::string kv_memory;
  std::string prefill_memory;
};

void AddFlags(CLI::App& app, WorkerOptions* options, Sizes* sizes) {
  app.add_option("--model", options->model, "Model folder (Hugging Face layout)")->required();
  app.add_option("--model_name", options->model_name,
                 "Name that clients use (default: the folder's)");
  app.add_option("--dictionary", options->dictionary,
                 "Dictionary file (default: that of the model folder); none: only profile dense");
  app.add_option("--address", options->address, "Address to serve on; port 0 picks one")
      ->capture_default_str();
  app.add_option("--advertise_address", options->advertise_address,
                 "Address that the coordinator uses (default: --address)");
  app.add_option("--metrics_address", options->metrics_address, "Address of GET /metrics")
      ->capture_default_str();
  app.add_option("--coordinator", options->coordinator, "Coordinator to register at, host:port");
  app.add_option("--store", options->store, "Cache store for sessions and pages, host:port");
  app.add_option("--store_stall_timeout", options->store_stall_timeout_s,
                 "Seconds without any progress after which a store call fails and can be retried")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  app.add_option("--worker_id", options->worker_id, "Name in the cluster (default: host and port)");
  app.add_option("--device", options->device, "Where the model runs: cpu, cuda, cuda:1, ...")
      ->capture_default_str();
  app.add_option("--tensor_parallel", options->tensor_parallel,
                 "GPUs that share the model, consecutive ones from --device's on")
      ->check(CLI::Range(1, base::kRanksMax))
      ->capture_default_str();
  app.add_option("--kv_memory", sizes->kv_memory,
                 "Memory for keys and values, as in 4GiB (default: half of what is free; on a GPU "
                 "all that weights, prompts and steps leave)");
  app.add_option("--prefill_memory", sizes->prefill_memory,
                 "Of a GPU: memory for prompts that are being read (default: what the longest "
                 "prompt of the model needs)");
  app.add_flag("--no_graphs{false}", options->decode_graphs,
               "Of one GPU: enqueue every op of a decode step by itself; slower, but the driver "
               "takes no memory for graphs");
  app.add_option("--threads", options->threads, "Threads that compute (default: one a processor)")
      ->check(CLI::Range(1, 1024));
  app.add_option("--queue_max", options->queue_max, "Calls that may wait; one more is refused")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app.add_option("--drain_timeout", options->drain_timeout_s,
                 "Seconds to store all sessions after SIGTERM")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  app.add_option("--log_level", options->log_level, "trace, debug, info, warning, error or off")
      ->capture_default_str();
  app.add_option("--tls_certificate", options->tls.certificate_file, "PEM file of our certificate");
  app.add_option("--tls_key", options->tls.key_file, "PEM file of its key");
  app.add_option("--tls_ca", options->tls.ca_file, "PEM file: peers must be signed by it");
  app.footer(R"(Examples:
  lexico-worker --model models/lexico-20m
  lexico-worker --model models/lexico-20m --coordinator 10.0.0.1:50051 --store 10.0.0.1:50053 \
                --address 0.0.0.0:50052 --advertise_address 10.0.0.7:50052 --kv_memory 8GiB)");
}

absl::Status CheckAddresses(const WorkerOptions& options) {
  using base::AddressUse;
  LEXICO_RETURN_IF_ERROR(base::CheckAddress("--address", options.address, AddressUse::kListen));
  LEXICO_RETURN_IF_ERROR(
      base::CheckAddress("--metrics_address", options.metrics_address, AddressUse::kListen));
  const std::pair<const char*, const std::string&> peers[] = {
      {"--advertise_address", options.advertise_address},
      {"--coordinator", options.coordinator},
      {"--store", options.store}};
  for (const auto& [flag, address] : peers) {
    if (address.empty()) continue;
    LEXICO_RETURN_IF_ERROR(base::CheckAddress(flag, address, AddressUse::kConnect));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ParseWorkerOptions(int argc, const char* const* argv, WorkerOptions* options) {
  CLI::App app("lexico-worker: one model; tokens in, tokens out", "lexico-worker");
  Sizes sizes;
  AddFlags(app, options, &sizes);
  LEXICO_RETURN_IF_ERROR(base::ParseCommandLine(app, argc, argv));
  LEXICO_RETURN_IF_ERROR(CheckAddresses(*options));
  const absl::Status device = kernels::Stream::CheckName(options->device);
  if (!device.ok()) return base::Annotate(device, "--device");
  if (!sizes.prefill_memory.empty()) {
    const absl::Status parsed =
        base::ParseByteSize(sizes.prefill_memory, &options->prefill_memory_bytes);
    if (!parsed.ok()) return base::Annotate(parsed, "--prefill_memory");
  }
  if (!sizes.kv_memory.empty()) {
    const absl::Status parsed = base::ParseByteSize(sizes.kv_memory, &options->kv_memory_bytes);
    if (!parsed.ok()) return base::Annotate(parsed, "--kv_memory");
    // 0 stands for what is not said.
    if (options->kv_memory_bytes == 0) {
      return absl::InvalidArgumentError("--kv_memory: 0 has no room for a page; as in 4GiB");
    }
  } else if (options->device == "cpu") {
    const size_t available = AvailableBytes();
    options->kv_memory_bytes = available > 0 ? available / 2 : kKvMemoryWithoutMeminfo;
  }
  if (options->model_name.empty()) {
    std::filesystem::path folder = std::filesystem::path(options->model).lexically_normal();
    if (!folder.has_filename()) folder = folder.parent_path();  // a slash at the end
    options->model_name = folder.filename().string();
  }
  return absl::OkStatus();
}

}  // namespace lexico::worker

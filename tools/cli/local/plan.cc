#include "tools/cli/local/plan.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>

namespace lexico::cli {
namespace {

namespace fs = std::filesystem;

constexpr char kCpu[] = "cpu";
constexpr int kCpuWorkers = 2;  // so that sessions can move
constexpr char kAnyPort[] = "127.0.0.1:0";
// Of the memory that is free at the start, for all workers' pages; the rest is for weights, the
// store, and whatever else the machine does.
constexpr double kPagesShare = 0.4;

ServerSpec MakeSpec(const LocalOptions& options, const std::string& name,
                    const std::string& program, const std::string& data_dir, int stop_rank) {
  ServerSpec spec;
  spec.name = name;
  spec.program = program;
  spec.flags = {"--log_level=" + options.log_level};
  spec.log_path = fmt::format("{}/logs/{}.log", data_dir, name);
  spec.stop_rank = stop_rank;
  return spec;
}

// -1: a CPU, or no name of a GPU, which the worker will refuse.
int OrdinalOf(const std::string& device) {
  constexpr std::string_view kCuda = "cuda:";
  int ordinal = device == "cuda" ? 0 : -1;
  if (device.starts_with(kCuda)) {
    std::from_chars(device.data() + kCuda.size(), device.data() + device.size(), ordinal);
  }
  return ordinal;
}

// Whether workers that begin at these devices and take `n` each have one in common.
bool Overlap(const std::string& a, const std::string& b, int n) {
  return OrdinalOf(a) >= 0 && OrdinalOf(b) >= 0 && std::abs(OrdinalOf(a) - OrdinalOf(b)) < n;
}

}  // namespace

std::string ExecutableFolder() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).parent_path().string();
}

absl::StatusOr<std::string> FindEmbeddedModel(const std::string& folder) {
  std::error_code error;
  std::vector<fs::path> candidates;
  for (fs::path at = folder; !at.empty(); at = at.parent_path()) {
    candidates.push_back(at / "models/lexico-20m");
    candidates.push_back(at / "share/lexico/models/lexico-20m");
    if (at == at.parent_path()) break;
  }
  candidates.push_back(fs::current_path(error) / "models/lexico-20m");
  for (const fs::path& candidate : candidates) {
    if (fs::exists(candidate / "config.json", error)) return candidate.string();
  }
  return absl::NotFoundError(fmt::format(
      "no models/lexico-20m in or above {} or in the working directory; name a folder with --model",
      folder));
}

absl::StatusOr<std::string> PrepareDataDir(const std::string& data_dir) {
  std::error_code error;
  std::string path = data_dir;
  if (path.empty()) {
    path = (fs::temp_directory_path(error) / "lexico-XXXXXX").string();
    if (mkdtemp(path.data()) == nullptr) {
      return absl::UnknownError(fmt::format("cannot make {}: {}", path, std::strerror(errno)));
    }
  }
  path = fs::absolute(path, error).lexically_normal().string();
  for (const char* folder : {"store", "coordinator", "logs"}) {
    fs::create_directories(fs::path(path) / folder, error);
    if (error) {
      return absl::UnknownError(fmt::format("cannot make {}/{}: {}; choose another --data-dir",
                                            path, folder, error.message()));
    }
  }
  const int lock = open((path + "/lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644);
  if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB) != 0) {
    const std::string reason = std::strerror(errno);
    if (lock >= 0) close(lock);
    return absl::FailedPreconditionError(fmt::format(
        "{} is in use by another lexico local ({}); choose another --data-dir", path, reason));
  }
  return path;  // the descriptor stays open: the lock ends with the process
}

absl::Status ResolveWorkers(LocalOptions* options) {
  const auto n_devices = static_cast<int>(options->devices.size());
  if (options->n_workers == 0) {
    const bool cpu_only = n_devices == 1 && options->devices[0] == kCpu;
    options->n_workers = cpu_only ? kCpuWorkers : n_devices;
  }
  if (n_devices > 1 && n_devices != options->n_workers) {
    return absl::InvalidArgumentError(
        fmt::format("--device names {} devices for {} workers; name one for all, one for each, or "
                    "leave --workers out",
                    n_devices, options->n_workers));
  }
  if (!options->kv_memory.empty()) return absl::OkStatus();
  for (const std::string& device : options->devices) {
    if (device == kCpu) continue;
    const auto sharing =
        n_devices == 1 ? options->n_workers
                       : std::ranges::count_if(options->devices, [&](const std::string& other) {
                           return Overlap(device, other, options->tensor_parallel);
                         });
    if (sharing <= 1) continue;
    return absl::InvalidArgumentError(
        fmt::format("{} workers share {}, of which each would take all that is left; say with "
                    "--kv-memory how much, or run one worker",
                    sharing, device));
  }
  return absl::OkStatus();
}

ServerSpec StoreServer(const LocalOptions& options, const std::string& programs,
                       const std::string& data_dir) {
  ServerSpec store = MakeSpec(options, "store", programs + "/lexico-cache-store", data_dir, 2);
  store.flags.push_back(fmt::format("--data_dir={}/store", data_dir));
  if (!options.store_memory.empty()) {
    store.flags.push_back("--host_bytes=" + options.store_memory);
  }
  if (!options.store_disk.empty()) store.flags.push_back("--disk_bytes=" + options.store_disk);
  store.addresses = {{"--address", "grpc", kAnyPort},
                     {"--bulk_address", "bulk", kAnyPort},
                     {"--metrics_address", "metrics", kAnyPort}};
  return store;
}

ServerSpec CoordinatorServer(const LocalOptions& options, const std::string& programs,
                             const std::string& data_dir, const std::string& store) {
  ServerSpec coordinator =
      MakeSpec(options, "coordinator", programs + "/lexico-coordinator", data_dir, 1);
  coordinator.flags.push_back(fmt::format("--data_dir={}/coordinator", data_dir));
  coordinator.flags.push_back("--store=" + store);
  coordinator.addresses = {{"--address", "grpc", fmt::format("127.0.0.1:{}", options.port)},
                           {"--metrics_address", "metrics", kAnyPort}};
  return coordinator;
}

std::vector<ServerSpec> Workers(const LocalOptions& options, const std::string& programs,
                                const std::string& data_dir, const std::string& coordinator,
                                const std::string& store, size_t available_bytes, int n_cores) {
  std::vector<ServerSpec> workers;
  const int threads =
      options.threads > 0 ? options.threads : std::max(1, n_cores / options.n_workers);
  for (int i = 1; i <= options.n_workers; ++i) {
    const std::string name = fmt::format("worker-{}", i);
    ServerSpec worker = MakeSpec(options, name, programs + "/lexico-worker", data_dir, 0);
    worker.flags.push_back("--worker_id=" + name);
    worker.flags.push_back("--model=" + options.model);
    if (!options.dictionary.empty()) worker.flags.push_back("--dictionary=" + options.dictionary);
    worker.flags.push_back("--coordinator=" + coordinator);
    worker.flags.push_back("--store=" + store);
    worker.flags.push_back(fmt::format("--threads={}", threads));
    worker.flags.push_back(fmt::format("--drain_timeout={}", options.drain_timeout_s));
    if (options.queue_max > 0)
      worker.flags.push_back(fmt::format("--queue_max={}", options.queue_max));
    const std::string& device = options.devices[options.devices.size() > 1 ? i - 1 : 0];
    worker.flags.push_back("--device=" + device);
    if (options.tensor_parallel > 1) {
      worker.flags.push_back(fmt::format("--tensor_parallel={}", options.tensor_parallel));
    }
    if (!options.kv_memory.empty()) {
      worker.flags.push_back("--kv_memory=" + options.kv_memory);
    } else if (device == kCpu && available_bytes > 0) {
      worker.flags.push_back(
          fmt::format("--kv_memory={}",
                      static_cast<size_t>(static_cast<double>(available_bytes) * kPagesShare) /
                          options.n_workers));
    }
    worker.addresses = {{"--address", "grpc", kAnyPort},
                        {"--metrics_address", "metrics", kAnyPort}};
    workers.push_back(std::move(worker));
  }
  return workers;
}

size_t AvailableMemoryBytes() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  size_t kib = 0;
  while (file >> key >> kib) {
    if (key == "MemAvailable:") return kib * 1024;
    file.ignore(64, '\n');
  }
  return 0;
}

}  // namespace lexico::cli

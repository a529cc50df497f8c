// What `lexico local` runs: which servers, with which flags, where their files are.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/cli/local/supervisor.h"

namespace lexico::cli {

struct LocalOptions {
  std::string model;  // folder; empty: the embedded one
  std::string dictionary;
  int n_workers = 0;  // 0: one a device, of a CPU two
  // Where workers run, as lexico-worker's --device: one for all of them, or one for each.
  std::vector<std::string> devices = {"cpu"};
  int tensor_parallel = 1;   // devices of each worker, consecutive ones from the named one on
  std::string data_dir;      // empty: a temporary one, removed at a good end
  int port = 50051;          // of the coordinator; 0 picks one. The others' are always picked
  std::string kv_memory;     // of each worker; empty: its share of this machine
  std::string store_memory;  // empty: the store's default
  std::string store_disk;
  int threads = 0;    // of each worker; 0: its share of the cores
  int queue_max = 0;  // of each worker; 0: its default
  std::string log_level = "info";
  bool no_restart = false;
  bool verbose = false;
  double drain_timeout_s = 30;
};

// The folder of this program: the servers stand beside it.
std::string ExecutableFolder();

// "models/lexico-20m" in `folder`, a folder above it, <prefix>/share/lexico, or the working
// directory. NotFound says where it looked.
absl::StatusOr<std::string> FindEmbeddedModel(const std::string& folder);

// Makes data_dir with its folders, or a temporary one, and locks it. FailedPrecondition: another
// `lexico local` uses it. The lock is held until the process ends.
absl::StatusOr<std::string> PrepareDataDir(const std::string& data_dir);

// Fills in n_workers. InvalidArgument, with what to say instead: neither one device nor one for
// each worker; a GPU for several workers without a bound of what each may take of it.
absl::Status ResolveWorkers(LocalOptions* options);

// The store, which needs no other, and the coordinator, which is told where the store is.
ServerSpec StoreServer(const LocalOptions& options, const std::string& programs,
                       const std::string& data_dir);
ServerSpec CoordinatorServer(const LocalOptions& options, const std::string& programs,
                             const std::string& data_dir, const std::string& store);
// The workers, which are told where the others are. `available_bytes`: of this machine's memory,
// which those on a CPU share. REQUIRES: ResolveWorkers was OK.
std::vector<ServerSpec> Workers(const LocalOptions& options, const std::string& programs,
                                const std::string& data_dir, const std::string& coordinator,
                                const std::string& store, size_t available_bytes, int n_cores);

// MemAvailable of /proc/meminfo; 0 where there is none.
size_t AvailableMemoryBytes();

}  // namespace lexico::cli

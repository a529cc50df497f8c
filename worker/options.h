// The command line of lexico-worker.
#pragma once

#include <CLI/CLI.hpp>
#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "proto/rpc/server.h"

namespace lexico::worker {

struct WorkerOptions {
  // -- Behavior -----------------------------------------------------------------------------------
  std::string model;       // folder; required
  std::string model_name;  // default: the folder's name
  std::string dictionary;  // file; default: that of the model folder; "none": `dense` only
  std::string address = "127.0.0.1:50052";
  std::string advertise_address;  // where the coordinator reaches us; default: `address`
  std::string metrics_address = "127.0.0.1:9091";
  std::string coordinator;            // empty: none, the worker stands alone
  std::string store;                  // empty: none, sessions live and die with the worker
  std::string worker_id;              // default: host name and port
  double store_stall_timeout_s = 10;  // a disk that is busy answers within a second
  double drain_timeout_s = 30;        // below Kubernetes' usual grace period of 60 s with a margin
  std::string log_level = "info";
  rpc::TlsOptions tls;

  // -- Performance --------------------------------------------------------------------------------
  // Pages and windows, of all GPUs together; default: half of the memory that is free, on a GPU 0:
  // the worker takes what all else leaves.
  size_t kv_memory_bytes = 0;
  std::string device = "cpu";  // or cuda, cuda:1, ...
  // Consecutive GPUs, from `device` on, that share the model; of a CPU, groups of its threads.
  int tensor_parallel = 1;
  size_t prefill_memory_bytes = 0;  // of every GPU; default: what the longest prompt needs
  bool decode_graphs = true;        // of one GPU: decode steps as graphs
  int threads = 0;                  // default: one a processor
  int queue_max = 64;               // calls that wait for their first step
};

// Parses into `options` and fills in defaults that depend on the machine. Errors as
// base::ParseCommandLine.
absl::Status ParseWorkerOptions(int argc, const char* const* argv, WorkerOptions* options);

}  // namespace lexico::worker

// lexico local: all servers on this machine, until Ctrl-C.
#include <fmt/format.h>

#include <filesystem>
#include <thread>

#include "proto/base/limits.h"
#include "proto/base/options.h"
#include "proto/base/status.h"
#include "tools/cli/command.h"
#include "tools/cli/json.h"
#include "tools/cli/local/plan.h"
#include "tools/cli/local/supervisor.h"
#include "tools/cli/text_output.h"

namespace lexico::cli {
namespace {

// Beyond the workers' own drain, for the process to end.
constexpr double kStopMarginS = 10;

absl::Status StartAll(Supervisor& supervisor, const LocalOptions& options,
                      const std::string& data_dir) {
  const std::string programs = ExecutableFolder();
  LEXICO_RETURN_IF_ERROR(supervisor.Start({StoreServer(options, programs, data_dir)}));
  LEXICO_RETURN_IF_ERROR(supervisor.Start(
      {CoordinatorServer(options, programs, data_dir, supervisor.Told("store", "grpc"))}));
  return supervisor.Start(Workers(options, programs, data_dir,
                                  supervisor.Told("coordinator", "grpc"),
                                  supervisor.Told("store", "grpc"), AvailableMemoryBytes(),
                                  static_cast<int>(std::thread::hardware_concurrency())));
}

void PrintAddresses(const Globals& globals, const LocalOptions& options,
                    const Supervisor& supervisor, const std::string& data_dir) {
  std::vector<std::string> names = {"coordinator", "store"};
  for (int i = 1; i <= options.n_workers; ++i) names.push_back(fmt::format("worker-{}", i));
  nlohmann::ordered_json servers = nlohmann::ordered_json::array();
  std::vector<std::vector<std::string>> rows;
  for (const std::string& name : names) {
    const std::string grpc = supervisor.Told(name, "grpc");
    const std::string metrics = supervisor.Told(name, "metrics");
    const pid_t pid = supervisor.Pid(name);
    servers.push_back({{"name", name}, {"grpc", grpc}, {"metrics", metrics}, {"pid", pid}});
    rows.push_back({name, grpc, fmt::format("http://{}/metrics", metrics), std::to_string(pid)});
  }
  if (globals.json) {
    PrintJson({{"server", supervisor.Told("coordinator", "grpc")},
               {"data_dir", data_dir},
               {"model", options.model},
               {"servers", std::move(servers)}});
  } else {
    fmt::print("{}model {}\ndata and logs in {}{}\n",
               FormatTable({"SERVER", "GRPC", "METRICS", "PID"}, rows), options.model, data_dir,
               options.data_dir.empty() ? " (removed at the end)" : "");
    fmt::print("use it with: export LEXICO_SERVER={}\n", supervisor.Told("coordinator", "grpc"));
  }
  fmt::print("ready\n");
  std::fflush(stdout);
}

absl::Status Local(const Globals& globals, const LocalOptions& given) {
  LocalOptions options = given;
  LEXICO_RETURN_IF_ERROR(ResolveWorkers(&options));
  if (options.model.empty()) {
    LEXICO_ASSIGN_OR_RETURN(options.model, FindEmbeddedModel(ExecutableFolder()));
  }
  LEXICO_ASSIGN_OR_RETURN(const std::string data_dir, PrepareDataDir(options.data_dir));
  absl::Status status;
  {
    Supervisor supervisor(
        SupervisorOptions{.restart = !options.no_restart,
                          .verbose = options.verbose,
                          .stop_timeout = absl::Seconds(options.drain_timeout_s + kStopMarginS)});
    status = StartAll(supervisor, options, data_dir);
    if (status.ok()) {
      PrintAddresses(globals, options, supervisor, data_dir);
      status = supervisor.Run();
      if (status.ok()) fmt::print(stderr, "lexico local: stopping; sessions go to the store\n");
    }
    supervisor.Stop();
  }
  // A signal before all was ready is how the user chose to end it.
  if (absl::IsCancelled(status)) status = absl::OkStatus();
  if (!options.data_dir.empty()) return status;
  if (!status.ok()) {
    return absl::Status(status.code(), fmt::format("{}; the logs stay in {}/logs",
                                                   std::string(status.message()), data_dir));
  }
  std::error_code error;
  std::filesystem::remove_all(data_dir, error);
  return status;
}

// Refuses what ParseByteSize refuses, at parsing.
CLI::Validator ByteSize() {
  return CLI::Validator(
      [](const std::string& text) {
        size_t bytes = 0;
        return std::string(base::ParseByteSize(text, &bytes).message());
      },
      "SIZE");
}

}  // namespace

void AddLocalCommand(CLI::App& app, Command& command) {
  auto options = std::make_shared<LocalOptions>();
  auto* local = app.add_subcommand("local", "Run all servers on this machine until Ctrl-C");
  local->add_option("--model", options->model, "Model folder (default: the embedded lexico-20m)")
      ->type_name(kPathType);
  local
      ->add_option("--dictionary", options->dictionary,
                   "Dictionary file (default: that of the model folder)")
      ->type_name(kPathType);
  local
      ->add_option("--workers", options->n_workers,
                   "Worker processes (default: one for each device, two on a CPU)")
      ->check(CLI::Range(1, 64));
  local
      ->add_option("--device", options->devices,
                   "Where workers run: cpu, cuda, cuda:1, ...; one for all or one for each worker")
      ->delimiter(',')
      ->capture_default_str();
  local
      ->add_option("--tensor-parallel", options->tensor_parallel,
                   "GPUs of each worker that share its model, consecutive ones from its own on")
      ->check(CLI::Range(1, base::kRanksMax))
      ->capture_default_str();
  local
      ->add_option("--data-dir", options->data_dir,
                   "Where sessions and logs live (default: a temporary folder, removed at the end "
                   "unless that is an error)")
      ->type_name(kPathType);
  local->add_option("--port", options->port, "Port of the coordinator; 0 picks one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  local
      ->add_option("--kv-memory", options->kv_memory,
                   "Memory for pages of each worker, as in 2GiB (default: its share of 40 % of "
                   "what is free; on a GPU all that is left)")
      ->check(ByteSize());
  local->add_option("--store-memory", options->store_memory, "Memory of the store, as in 1GiB")
      ->check(ByteSize());
  local->add_option("--store-disk", options->store_disk, "Disk of the store, as in 20GiB")
      ->check(ByteSize());
  local->add_option("--threads", options->threads, "Threads of each worker (default: its share)")
      ->check(CLI::Range(1, 1024));
  local->add_option("--queue-max", options->queue_max, "Calls that may wait at each worker")
      ->check(CLI::Range(1, 1000000));
  local
      ->add_option("--drain-timeout", options->drain_timeout_s,
                   "Seconds a worker has to store its sessions at the end")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  local->add_option("--log-level", options->log_level, "Of the servers")
      ->check(CLI::IsMember({"trace", "debug", "info", "warning", "error", "off"}))
      ->capture_default_str();
  local->add_flag("--no-restart", options->no_restart, "End when a server ends");
  local->add_flag("--verbose", options->verbose, "Also print the servers' logs");
  local->footer(
      R"(Prints the addresses, then "ready". Ctrl-C or SIGTERM stores all sessions and ends.
Examples:
  lexico local
  lexico local --model ~/models/my-llama --workers 1 --data-dir ~/lexico-data
  lexico local --device cuda          one worker on the first GPU; cuda:0,cuda:1 for two on two
  lexico local --device cuda --tensor-parallel 2      one worker on the first two GPUs
  lexico local --port 0 --json        for scripts: addresses as JSON, then "ready")");
  Bind(local, command, options, &Local);
}

}  // namespace lexico::cli

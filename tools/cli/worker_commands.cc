// lexico worker list|drain.
#include <fmt/format.h>

#include "absl/time/clock.h"
#include "proto/base/options.h"
#include "proto/base/status.h"
#include "tools/cli/client.h"
#include "tools/cli/command.h"
#include "tools/cli/json.h"
#include "tools/cli/text_output.h"

namespace lexico::cli {
namespace {

struct DrainOptions {
  std::string worker;
  bool undo = false;
};

std::vector<std::string> Row(const v1::Worker& worker) {
  const auto& load = worker.load();
  const auto beat = absl::FromUnixSeconds(worker.last_heartbeat_time().seconds()) +
                    absl::Nanoseconds(worker.last_heartbeat_time().nanos());
  return {worker.worker_id(),
          worker.address(),
          EnumWord(*v1::WorkerState_descriptor()->FindValueByNumber(worker.state())),
          worker.model().name(),
          HumanCount(worker.n_sessions()),
          fmt::format("{} of {}", HumanCount(load.n_pages_free()), HumanCount(load.n_pages())),
          fmt::format("{} + {} waiting", load.n_running(), load.n_waiting()),
          base::HumanBytes(static_cast<double>(load.code_bytes())),
          fmt::format("{} ago", HumanDuration(absl::Now() - beat))};
}

absl::Status List(const Globals& globals, const NoOptions&) {
  LEXICO_ASSIGN_OR_RETURN(const Client client, Client::Connect(globals));
  LEXICO_ASSIGN_OR_RETURN(const v1::ListWorkersResponse response,
                          client.Call(&v1::Admin::Stub::ListWorkers, v1::ListWorkersRequest()));
  if (globals.json) {
    PrintJson(ToJson(response));
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows;
  for (const v1::Worker& worker : response.workers()) rows.push_back(Row(worker));
  if (rows.empty()) {
    fmt::print("no workers\n");
    return absl::OkStatus();
  }
  fmt::print("{}", FormatTable({"WORKER", "ADDRESS", "STATE", "MODEL", "SESSIONS", "PAGES FREE",
                                "RUNNING", "CODES", "HEARTBEAT"},
                               rows));
  return absl::OkStatus();
}

absl::Status Drain(const Globals& globals, const DrainOptions& options) {
  LEXICO_ASSIGN_OR_RETURN(const Client client, Client::Connect(globals));
  v1::DrainWorkerRequest request;
  request.set_worker_id(options.worker);
  request.set_undo(options.undo);
  const auto context = client.NewContext(absl::ZeroDuration());
  const auto reader = client.admin().DrainWorker(context.get(), request);
  v1::DrainWorkerEvent event;
  while (reader->Read(&event)) {
    if (globals.json) {
      PrintJson(ToJson(event));
    } else if (!event.session_id().empty()) {
      fmt::print("{} -> {}, {} to go\n", event.session_id(), event.target(), event.n_remaining());
      std::fflush(stdout);
    }
  }
  LEXICO_RETURN_IF_ERROR(client.Convert(reader->Finish(), absl::ZeroDuration()));
  if (!globals.json) {
    fmt::print("{} {}\n", options.worker, options.undo ? "takes sessions again" : "is drained");
  }
  return absl::OkStatus();
}

}  // namespace

void AddWorkerCommands(CLI::App& app, Command& command) {
  auto* worker = app.add_subcommand("worker", "Look at workers and empty them");
  worker->require_subcommand(1);
  worker->fallthrough();
  worker->footer("Examples:\n  lexico worker list\n  lexico worker drain worker-1");
  auto* list = worker->add_subcommand("list", "All workers with their load");
  list->footer(
      "Examples:\n  lexico worker list\n"
      "  lexico worker list --json | jq '.workers[].load.n_pages_free'");
  Bind(list, command, std::make_shared<NoOptions>(), &List);
  auto options = std::make_shared<DrainOptions>();
  auto* drain = worker->add_subcommand("drain", "Move all sessions off a worker");
  drain->add_option("worker", options->worker, "Its id, as in lexico worker list")->required();
  drain->add_flag("--undo", options->undo, "Take sessions again");
  drain->footer(
      "A drained worker takes no new session and can be stopped.\n"
      "Examples:\n  lexico worker drain worker-1\n"
      "  lexico worker drain worker-1 --undo");
  Bind(drain, command, options, &Drain);
}

}  // namespace lexico::cli

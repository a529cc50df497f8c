// What every subcommand of `lexico` shares: the global flags and the shape of a command group.
//
// A group adds its subcommands to the command line; parsing then leaves in `run` what the chosen
// one does. Nothing is connected or opened before parsing is complete.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "proto/rpc/server.h"

namespace lexico::cli {

struct Globals {
  std::string server = "127.0.0.1:50051";
  std::string tenant;
  bool json = false;     // one JSON value instead of text: results on stdout, errors on stderr
  double timeout_s = 0;  // of a call; 0: each command's own
  rpc::TlsOptions tls;
};

struct Command {
  Globals globals;
  std::function<absl::Status()> run;
};

// The whole command line. `app` and `command` must outlive the parsing and the run.
void AddCommands(CLI::App& app, Command& command);

// Parses argv as base::ParseCommandLine does, and refuses what cannot be sent: InvalidArgument
// names an argument that is not UTF-8 (options of type kPathType excepted: names of files are
// bytes), a --server (or LEXICO_SERVER) that is not host:port, and a tenant that is no gRPC
// metadata. `command.globals.json` is right also when parsing fails.
absl::Status ParseArguments(CLI::App& app, int argc, const char* const* argv, Command& command);

// InvalidArgument for a tenant that is no gRPC metadata, with the byte and what is allowed.
absl::Status CheckTenant(const std::string& tenant);

// The CLI11 type name of options that hold the name of a file or a folder.
inline constexpr char kPathType[] = "PATH";

// The groups, one file each. `command` must outlive `app`'s parsing.
void AddLocalCommand(CLI::App& app, Command& command);
void AddSessionCommands(CLI::App& app, Command& command);
void AddAppendCommand(CLI::App& session, Command& command);
void AddAskCommand(CLI::App& app, Command& command);
void AddChatCommand(CLI::App& app, Command& command);
void AddWorkerCommands(CLI::App& app, Command& command);
void AddStoreCommands(CLI::App& app, Command& command);
void AddTokenCommands(CLI::App& app, Command& command);
void AddInfoCommands(CLI::App& app, Command& command);

// Of a subcommand without any.
struct NoOptions {};

// Binds a subcommand to its function: `run` gets the parsed options when the subcommand was chosen.
template <typename Options>
void Bind(CLI::App* subcommand, Command& command, std::shared_ptr<Options> options,
          absl::Status (*run)(const Globals&, const Options&)) {
  subcommand->callback([&command, options, run] {
    command.run = [&command, options, run] { return run(command.globals, *options); };
  });
}

// 0 OK, 2 InvalidArgument (found here or by the server), 3 Unavailable, 1 anything else.
int ExitCode(const absl::Status& status);

// "lexico: UNAVAILABLE: message", with when to come back where the server said it; with --json
// {"error": {"code", "reason", "message", "retry_after_ms"}}, without those that are not known. One
// line without its newline.
std::string ErrorLine(const absl::Status& status, const Globals& globals);

}  // namespace lexico::cli

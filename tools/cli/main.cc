// lexico: the command line client, and with `lexico local` a supervisor of the servers.
#include <fmt/format.h>

#include "tools/cli/command.h"

int main(int argc, char** argv) {
  CLI::App app;
  lexico::cli::Command command;
  lexico::cli::AddCommands(app, command);
  const absl::Status parsed = lexico::cli::ParseArguments(app, argc, argv, command);
  if (absl::IsCancelled(parsed)) {
    fmt::print("{}", std::string(parsed.message()));
    return 0;
  }
  if (!parsed.ok()) {
    fmt::print(stderr, "{}\n", lexico::cli::ErrorLine(parsed, command.globals));
    return lexico::cli::ExitCode(parsed);
  }
  const absl::Status status = command.run();
  std::fflush(stdout);
  if (!status.ok()) {
    fmt::print(stderr, "{}\n", lexico::cli::ErrorLine(status, command.globals));
  }
  return lexico::cli::ExitCode(status);
}

#include "tools/cli/command.h"

#include <fmt/format.h>

#include "proto/rpc/status_map.h"

namespace lexico::cli {
namespace {

constexpr char kFooter[] = R"(A first conversation:
  lexico local &                                   start everything on this machine
  lexico session create --id notes                 a session that keeps its place
  lexico session append notes handbook.txt         read a document into it
  lexico ask notes "Who keeps the spare keys?"     ask about it, as often as you like
  lexico session show notes                        what it takes in memory

Every command takes --json for scripts and --help for its examples.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 server unavailable.)";

}  // namespace

void AddCommands(CLI::App& app, Command& command) {
  Globals& globals = command.globals;
  app.description("lexico: long documents and questions over compressed key-value caches");
  app.footer(kFooter);
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--server", globals.server, "Address of the coordinator, host:port")
      ->envname("LEXICO_SERVER")
      ->capture_default_str();
  app.add_option("--tenant", globals.tenant, "Whose sessions; other tenants' are not found")
      ->envname("LEXICO_TENANT");
  app.add_flag("--json", globals.json, "Print JSON for scripts");
  app.add_option("--timeout", globals.timeout_s, "Give up on a call after this many seconds")
      ->check(CLI::Range(0.0, 1e6));
  app.add_option("--tls-ca", globals.tls.ca_file, "PEM file: trust servers signed by it (TLS)");
  app.add_option("--tls-certificate", globals.tls.certificate_file,
                 "PEM file: our certificate, where the server asks for one");
  app.add_option("--tls-key", globals.tls.key_file, "PEM file: the key of --tls-certificate");
  AddLocalCommand(app, command);
  AddSessionCommands(app, command);
  AddAskCommand(app, command);
  AddChatCommand(app, command);
  AddWorkerCommands(app, command);
  AddTokenCommands(app, command);
  AddInfoCommands(app, command);
}

int ExitCode(const absl::Status& status) {
  if (status.ok()) return 0;
  return absl::IsUnavailable(status) ? 3 : 1;
}

std::string ErrorLine(const absl::Status& status, const Globals& globals) {
  std::string line = fmt::format("lexico: {}: {}", absl::StatusCodeToString(status.code()),
                                 std::string(status.message()));
  for (char& c : line) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  const absl::Duration retry_after = rpc::RetryAfterOf(status);
  if (retry_after > absl::ZeroDuration()) {
    line += fmt::format("; try again in {:.1f} s", absl::ToDoubleSeconds(retry_after));
  } else if (absl::IsUnavailable(status) && rpc::ReasonOf(status).empty()) {
    line += fmt::format(
        "; is a server running at {}? start one with `lexico local` or name it with --server",
        globals.server);
  }
  return line;
}

}  // namespace lexico::cli

#include "tools/cli/command.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "absl/strings/ascii.h"
#include "proto/base/options.h"
#include "proto/base/status.h"
#include "proto/base/utf8.h"
#include "proto/rpc/status_map.h"
#include "tools/cli/json.h"

namespace lexico::cli {
namespace {

constexpr char kFooter[] = R"(A first conversation:
  lexico local &                                   start everything on this machine
  lexico session create --id notes                 a session that keeps its place
  lexico session append notes handbook.txt         read a document into it
  lexico ask notes "Who keeps the spare keys?"     ask about it, as often as you like
  lexico session show notes                        what it takes in memory

Every command takes --json for scripts (errors too, on stderr) and --help for its examples.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 server unavailable.)";

// Every string argument that was given to `app` or to a chosen subcommand, from argv or the
// environment.
absl::Status CheckTexts(const CLI::App& app) {
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_type_name() == kPathType) continue;
    for (const std::string& text : option->results()) {
      if (const absl::Status status = base::CheckUtf8(text); !status.ok()) {
        return base::Annotate(status, option->get_name());
      }
    }
  }
  for (const CLI::App* sub : app.get_subcommands()) LEXICO_RETURN_IF_ERROR(CheckTexts(*sub));
  return absl::OkStatus();
}

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
  app.add_option("--tls-ca", globals.tls.ca_file, "PEM file: trust servers signed by it (TLS)")
      ->type_name(kPathType);
  app.add_option("--tls-certificate", globals.tls.certificate_file,
                 "PEM file: our certificate, where the server asks for one")
      ->type_name(kPathType);
  app.add_option("--tls-key", globals.tls.key_file, "PEM file: the key of --tls-certificate")
      ->type_name(kPathType);
  AddLocalCommand(app, command);
  AddSessionCommands(app, command);
  AddAskCommand(app, command);
  AddChatCommand(app, command);
  AddWorkerCommands(app, command);
  AddStoreCommands(app, command);
  AddTokenCommands(app, command);
  AddInfoCommands(app, command);
}

absl::Status ParseArguments(CLI::App& app, int argc, const char* const* argv, Command& command) {
  // Before parsing, which stops at the first error.
  const char* const* const end = std::find(argv, argv + argc, std::string_view("--"));
  if (std::find(argv, end, std::string_view("--json")) != end) command.globals.json = true;
  LEXICO_RETURN_IF_ERROR(base::ParseCommandLine(app, argc, argv));
  LEXICO_RETURN_IF_ERROR(CheckTexts(app));
  // Not a validator of the option: those do not see LEXICO_SERVER.
  LEXICO_RETURN_IF_ERROR(
      base::CheckAddress("--server", command.globals.server, base::AddressUse::kConnect));
  return CheckTenant(command.globals.tenant);
}

// gRPC ends the process on metadata outside printable ASCII; the server's own rule is narrower.
absl::Status CheckTenant(const std::string& tenant) {
  const auto bad = std::find_if_not(tenant.begin(), tenant.end(),
                                    [](unsigned char c) { return absl::ascii_isprint(c); });
  if (bad == tenant.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("--tenant has the byte 0x{:02x} at {}; allowed are letters, digits and ._-",
                  static_cast<unsigned char>(*bad), bad - tenant.begin()));
}

int ExitCode(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kInvalidArgument:
      return 2;
    case absl::StatusCode::kUnavailable:
      return 3;
    default:
      return 1;
  }
}

std::string ErrorLine(const absl::Status& status, const Globals& globals) {
  const std::string code = absl::StatusCodeToString(status.code());
  const std::string reason = rpc::ReasonOf(status);
  const absl::Duration retry_after = rpc::RetryAfterOf(status);
  if (globals.json) {
    nlohmann::ordered_json error = {{"code", code}};
    if (!reason.empty()) error["reason"] = reason;
    error["message"] = std::string(status.message());
    if (retry_after > absl::ZeroDuration()) {
      error["retry_after_ms"] = absl::ToInt64Milliseconds(retry_after);
    }
    return JsonLine({{"error", std::move(error)}});
  }
  std::string line = fmt::format("lexico: {}: {}", code, std::string(status.message()));
  for (char& c : line) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  if (retry_after > absl::ZeroDuration()) {
    line += fmt::format("; try again in {:.1f} s", absl::ToDoubleSeconds(retry_after));
  }
  return line;
}

}  // namespace lexico::cli

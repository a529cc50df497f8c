#include "tools/bench_serving/options.h"

#include <fmt/format.h>

#include "proto/base/limits.h"
#include "proto/base/options.h"
#include "proto/base/status.h"

namespace lexico::bench_serving {
namespace {

constexpr int kSessionsMax = 1'000'000;
constexpr int kOpenSessions = 20;  // where --sessions is not given

constexpr char kFooter[] = R"(Examples:
  lexico local &
  lexico-bench-serving --users 4 --sessions 16 --document_tokens 2048
  lexico-bench-serving --rate 0.5 --sessions 60 --json > serving.json
  tools/bench_serving/plot.py serving.json --out serving.svg

A visit is one user: creates a session, appends a document, asks the questions one after the
other, deletes the session. In a closed loop a refused call is repeated after the time that the
service names; in an open loop it ends the visit. Both are counted by their reason.
Exit codes: 0 measured, refusals included; 1 errors, nothing but refusals, or sessions left
behind; 2 wrong usage; 3 no coordinator or no worker.)";

void AddLoad(CLI::App& app, Options* options) {
  app.add_option("--profiles", options->profiles, "profiles, one after the other")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--rate", options->rate, "open loop: users that arrive per second, on average")
      ->check(CLI::Range(1e-4, 1e4));
  app.add_option("--users", options->users, "closed loop: users at once")
      ->check(CLI::Range(1, kUsersMax));
  app.add_option(
         "--sessions", options->sessions,
         fmt::format("visits of each profile (default: --users, or {} with --rate)", kOpenSessions))
      ->check(CLI::Range(1, kSessionsMax));
  app.add_option("--warmup", options->warmup, "visits before those that are counted, one by one")
      ->check(CLI::Range(0, kSessionsMax))
      ->capture_default_str();
  app.add_option("--retries", options->retries_max, "closed loop: times a refused call is repeated")
      ->check(CLI::Range(0, kSessionsMax))
      ->capture_default_str();
  app.add_option("--seed", options->seed, "of arrivals, documents and questions")
      ->capture_default_str();
}

void AddVisit(CLI::App& app, Options* options) {
  app.add_option("--document_tokens", options->document_tokens,
                 "about so many tokens of random words, others in each session; 0: no document")
      ->check(CLI::Range(0, base::kPositionsMax))
      ->capture_default_str();
  app.add_option("--document", options->document_path, "UTF-8 text to append instead")
      ->type_name(cli::kPathType);
  app.add_option("--questions", options->questions, "of each session")
      ->check(CLI::Range(0, kSessionsMax))
      ->capture_default_str();
  app.add_option("--new", options->n_new, "tokens of an answer at most (greedy)")
      ->check(CLI::Range(1, base::kNewTokensMax))
      ->capture_default_str();
  app.add_flag("--ignore_end", options->ignore_end, "write all --new tokens, past end tokens");
}

void AddService(CLI::App& app, Options* options) {
  cli::Globals& globals = options->globals;
  app.add_option("--address,--server", globals.server, "of the coordinator, host:port")
      ->capture_default_str();
  app.add_option("--tenant", globals.tenant, "whose sessions");
  app.add_option("--model", options->model, "default: the only one served");
  app.add_option("--timeout", globals.timeout_s, "seconds for a call")
      ->check(CLI::Range(0.001, 1e6))
      ->capture_default_str();
  app.add_option("--tls_ca", globals.tls.ca_file, "PEM file: trust servers signed by it (TLS)");
  app.add_option("--tls_certificate", globals.tls.certificate_file, "PEM file: our certificate");
  app.add_option("--tls_key", globals.tls.key_file, "PEM file: its key");
  app.add_flag("--json", globals.json, "print JSON");
}

absl::Status CheckTogether(const Options& options) {
  LEXICO_RETURN_IF_ERROR(
      base::CheckAddress("--address", options.globals.server, base::AddressUse::kConnect));
  LEXICO_RETURN_IF_ERROR(cli::CheckTenant(options.globals.tenant));
  if (options.rate > 0 && options.users > 0) {
    return absl::InvalidArgumentError(
        fmt::format("--rate {} is an open loop and --users {} a closed one; give one of them",
                    options.rate, options.users));
  }
  if (options.rate == 0 && options.users == 0) {
    return absl::InvalidArgumentError(
        "the load is not given: --users N (closed loop) or --rate R (open loop)");
  }
  if (options.document_path.empty() && options.document_tokens == 0 && options.questions == 0) {
    return absl::InvalidArgumentError(
        "--document_tokens 0 and --questions 0 leave nothing to measure; raise one of them");
  }
  if (options.sessions > 0 && options.sessions < options.users) {
    return absl::InvalidArgumentError(
        fmt::format("--sessions {} is less than --users {}; some users would have nothing to do",
                    options.sessions, options.users));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ParseOptions(int argc, const char* const* argv, Options* options) {
  CLI::App app("Measures a running service under load: latencies, throughput, memory, refusals.",
               "lexico-bench-serving");
  app.footer(kFooter);
  AddService(app, options);
  AddLoad(app, options);
  AddVisit(app, options);
  LEXICO_RETURN_IF_ERROR(base::ParseCommandLine(app, argc, argv));
  LEXICO_RETURN_IF_ERROR(CheckTogether(*options));
  if (options->sessions == 0) {
    options->sessions = options->is_open() ? kOpenSessions : options->users;
  }
  return absl::OkStatus();
}

}  // namespace lexico::bench_serving

// lexico session create|show|list|fork|offload|restore|migrate|demote|delete (append has its own
// file).
#include <fmt/format.h>

#include "proto/base/options.h"
#include "proto/base/status.h"
#include "tools/cli/client.h"
#include "tools/cli/command.h"
#include "tools/cli/json.h"
#include "tools/cli/text_input.h"
#include "tools/cli/text_output.h"

namespace lexico::cli {
namespace {

// Moving a session writes or reads all its pages.
constexpr absl::Duration kMoveTimeout = absl::Minutes(10);

struct CreateOptions {
  v1::CreateSessionRequest request;
  std::string format;
};
struct ListOptions {
  int page_size = 0;
};
struct SessionOptions {
  std::string id;
  std::string other;  // the new session of fork, the worker of restore and migrate
};

void Print(const Globals& globals, const v1::Session& session) {
  if (globals.json) {
    PrintJson(ToJson(session));
  } else {
    fmt::print("{}", FormatSession(session));
  }
}

absl::Status Create(const Globals& globals, const CreateOptions& options) {
  v1::CreateSessionRequest request = options.request;
  if (options.format == "chat") request.set_format(v1::TEXT_FORMAT_CHAT);
  if (options.format == "raw") request.set_format(v1::TEXT_FORMAT_RAW);
  LEXICO_ASSIGN_OR_RETURN(const std::string system, TextArgument(request.system_prompt()));
  request.set_system_prompt(system);
  LEXICO_ASSIGN_OR_RETURN(const Client client, Client::Connect(globals));
  LEXICO_ASSIGN_OR_RETURN(const v1::Session session,
                          client.Call(&v1::Inference::Stub::CreateSession, request));
  if (globals.json) {
    PrintJson(ToJson(session));
  } else {
    fmt::print("{}\n", session.session_id());  // alone, so that ID=$(lexico session create) works
  }
  return absl::OkStatus();
}

absl::Status Show(const Globals& globals, const SessionOptions& options) {
  LEXICO_ASSIGN_OR_RETURN(const Client client, Client::Connect(globals));
  v1::GetSessionRequest request;
  request.set_session_id(options.id);
  LEXICO_ASSIGN_OR_RETURN(const v1::Session session,
                          client.Call(&v1::Inference::Stub::GetSession, request));
  Print(globals, session);
  return absl::OkStatus();
}

std::vector<std::string> Row(const v1::Session& session) {
  const auto& memory = session.memory();
  return {
      session.session_id(),
      EnumWord(*v1::SessionState_descriptor()->FindValueByNumber(session.state())),
      session.tier() == v1::TIER_UNSPECIFIED
          ? "-"
          : EnumWord(*v1::Tier_descriptor()->FindValueByNumber(session.tier())),
      session.worker().empty() ? "-" : session.worker(),
      session.profile(),
      HumanCount(session.n_tokens()),
      base::HumanBytes(memory.code_bytes() + memory.window_bytes() + memory.bookkeeping_bytes()),
      memory.fp16_equivalent_bytes() == 0
          ? "-"
          : fmt::format("{:.1f} %", 100 * memory.fraction_of_fp16())};
}

absl::Status List(const Globals& globals, const ListOptions& options) {
  LEXICO_ASSIGN_OR_RETURN(const Client client, Client::Connect(globals));
  v1::ListSessionsRequest request;
  request.set_page_size(options.page_size);
  nlohmann::ordered_json sessions = nlohmann::ordered_json::array();
  std::vector<std::vector<std::string>> rows;
  do {
    LEXICO_ASSIGN_OR_RETURN(const v1::ListSessionsResponse page,
                            client.Call(&v1::Inference::Stub::ListSessions, request));
    for (const v1::Session& session : page.sessions()) {
      if (globals.json) {
        sessions.push_back(ToJson(session));
      } else {
        rows.push_back(Row(session));
      }
    }
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  if (globals.json) {
    PrintJson({{"sessions", std::move(sessions)}});
  } else if (rows.empty()) {
    fmt::print("no sessions\n");
  } else {
    fmt::print("{}", FormatTable({"SESSION", "STATE", "TIER", "WORKER", "PROFILE", "TOKENS",
                                  "BYTES", "OF FP16"},
                                 rows));
  }
  return absl::OkStatus();
}

absl::Status Fork(const Globals& globals, const SessionOptions& options) {
  LEXICO_ASSIGN_OR_RETURN(const Client client, Client::Connect(globals));
  v1::ForkSessionRequest request;
  request.set_session_id(options.id);
  request.set_new_session_id(options.other);
  LEXICO_ASSIGN_OR_RETURN(const v1::Session session,
                          client.Call(&v1::Inference::Stub::ForkSession, request, kMoveTimeout));
  if (globals.json) {
    PrintJson(ToJson(session));
  } else {
    fmt::print("{}\n", session.session_id());
  }
  return absl::OkStatus();
}

// Offload, restore, migrate and demote: the same shape, other request types.
template <typename Request>
absl::Status Move(const Globals& globals, const Request& request,
                  grpc::Status (v1::Inference::Stub::*method)(grpc::ClientContext*, const Request&,
                                                              v1::Session*)) {
  LEXICO_ASSIGN_OR_RETURN(const Client client, Client::Connect(globals));
  LEXICO_ASSIGN_OR_RETURN(const v1::Session session, client.Call(method, request, kMoveTimeout));
  Print(globals, session);
  return absl::OkStatus();
}

absl::Status Offload(const Globals& globals, const SessionOptions& options) {
  v1::OffloadSessionRequest request;
  request.set_session_id(options.id);
  return Move(globals, request, &v1::Inference::Stub::OffloadSession);
}

absl::Status Restore(const Globals& globals, const SessionOptions& options) {
  v1::RestoreSessionRequest request;
  request.set_session_id(options.id);
  request.set_worker(options.other);
  return Move(globals, request, &v1::Inference::Stub::RestoreSession);
}

absl::Status Migrate(const Globals& globals, const SessionOptions& options) {
  v1::MigrateSessionRequest request;
  request.set_session_id(options.id);
  request.set_worker(options.other);
  return Move(globals, request, &v1::Inference::Stub::MigrateSession);
}

absl::Status Demote(const Globals& globals, const SessionOptions& options) {
  v1::DemoteSessionRequest request;
  request.set_session_id(options.id);
  request.set_profile(options.other);
  return Move(globals, request, &v1::Inference::Stub::DemoteSession);
}

absl::Status Delete(const Globals& globals, const SessionOptions& options) {
  LEXICO_ASSIGN_OR_RETURN(const Client client, Client::Connect(globals));
  v1::DeleteSessionRequest request;
  request.set_session_id(options.id);
  LEXICO_RETURN_IF_ERROR(client.Call(&v1::Inference::Stub::DeleteSession, request).status());
  if (globals.json) {
    PrintJson({{"session_id", options.id}, {"deleted", true}});
  } else {
    fmt::print("deleted {}\n", options.id);
  }
  return absl::OkStatus();
}

void AddCreate(CLI::App& session, Command& command) {
  auto options = std::make_shared<CreateOptions>();
  auto* create = session.add_subcommand("create", "Make an empty session and print its id");
  create->add_option_function<std::string>(
      "--id", [options](const std::string& id) { options->request.set_session_id(id); },
      "Its id, [A-Za-z0-9._-]{1,128}; chosen when absent");
  create->add_option_function<std::string>(
      "--model", [options](const std::string& model) { options->request.set_model(model); },
      "Model (lexico models lists them); may be absent when there is one");
  create->add_option_function<std::string>(
      "--profile", [options](const std::string& profile) { options->request.set_profile(profile); },
      "How to code keys and values: dense; paper-sN with N atoms a vector, up to 64 and to the "
      "model's head_dim; or a code such as kv4r1 or k2r2u-v4r1: atoms and residual bits of keys "
      "and "
      "of values (lexico models lists some; docs/adr/0015)");
  create->add_option_function<std::string>(
      "--min-profile",
      [options](const std::string& profile) { options->request.set_min_profile(profile); },
      "Where a worker's memory is short, the session may be demoted to this smaller profile, as "
      "from "
      "paper-s16 to paper-s8; default: the coordinator's, which is none unless it says so");
  create->add_option("--format", options->format, "chat or raw; default: what the model has")
      ->check(CLI::IsMember({"chat", "raw"}));
  create->add_option_function<std::string>(
      "--system", [options](const std::string& text) { options->request.set_system_prompt(text); },
      "System prompt (chat only); - reads it from standard input");
  create->footer(R"(Examples:
  lexico session create
  lexico session create --id notes --profile paper-s8
  lexico session create --profile paper-s16 --min-profile paper-s8
  ID=$(lexico session create --system "Answer in one sentence."))");
  Bind(create, command, options, &Create);
}

// A subcommand whose arguments are a session and perhaps one more name.
CLI::App* AddOne(CLI::App& session, Command& command, const std::string& name,
                 const std::string& help,
                 absl::Status (*run)(const Globals&, const SessionOptions&),
                 const std::string& other_flag = "", const std::string& other_help = "") {
  auto options = std::make_shared<SessionOptions>();
  auto* sub = session.add_subcommand(name, help);
  sub->add_option("id", options->id, "The session")->required();
  if (!other_flag.empty()) sub->add_option(other_flag, options->other, other_help);
  Bind(sub, command, options, run);
  return sub;
}

}  // namespace

void AddSessionCommands(CLI::App& app, Command& command) {
  auto* session = app.add_subcommand("session", "Make, fill, look at, move and delete sessions");
  session->require_subcommand(1);
  session->fallthrough();
  session->footer(R"(Examples:
  lexico session create --id notes
  lexico session append notes handbook.txt
  lexico session show notes
  lexico session migrate notes)");
  AddCreate(*session, command);
  AddAppendCommand(*session, command);
  AddOne(*session, command, "show", "Tokens, bytes, errors and place of a session", &Show)
      ->footer(
          "Examples:\n  lexico session show notes\n"
          "  lexico session show notes --json | jq .memory.fraction_of_fp16");
  auto list_options = std::make_shared<ListOptions>();
  auto* list = session->add_subcommand("list", "All sessions of the tenant, by id");
  list->add_option("--page-size", list_options->page_size, "Sessions a call; all are shown anyway")
      ->check(CLI::Range(1, 1000));
  list->footer(
      "Examples:\n  lexico session list\n"
      "  lexico session list --json | jq -r '.sessions[].session_id'");
  Bind(list, command, list_options, &List);
  AddOne(*session, command, "fork", "Copy a session; both share their pages", &Fork, "--id",
         "Id of the copy; chosen when absent")
      ->footer(
          "Examples:\n  lexico session fork notes --id notes-2\n"
          "  lexico ask notes-2 \"And the other branch?\"");
  AddOne(*session, command, "offload", "Move a session to the store and free its worker", &Offload)
      ->footer(
          "Examples:\n  lexico session offload notes\n"
          "The next ask or append brings it back by itself.");
  AddOne(*session, command, "restore", "Bring an offloaded session to a worker", &Restore,
         "--worker", "Which one; the router chooses when absent")
      ->footer(
          "Examples:\n  lexico session restore notes\n"
          "  lexico session restore notes --worker worker-2");
  AddOne(*session, command, "migrate", "Move a session to another worker", &Migrate, "--worker",
         "Which one; the router chooses when absent")
      ->footer(
          "Examples:\n  lexico session migrate notes\n"
          "  lexico session migrate notes --worker worker-2");
  auto* demote =
      AddOne(*session, command, "demote", "Make a session's pages smaller, from their codes alone",
             &Demote, "--profile", "The smaller profile, of the same form as the session's");
  demote->get_option("--profile")->required();
  demote->footer(
      "Examples:\n  lexico session demote notes --profile paper-s8\n"
      "What is left out does not come back. An offloaded session is restored first.");
  AddOne(*session, command, "delete", "Free a session everywhere", &Delete)
      ->footer("Examples:\n  lexico session delete notes");
}

}  // namespace lexico::cli

// lexico chat: a conversation on the terminal. Ctrl-C ends an answer, or the chat at the prompt.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <iostream>

#include "proto/base/status.h"
#include "proto/base/utf8.h"
#include "tools/cli/append.h"
#include "tools/cli/command.h"
#include "tools/cli/generate.h"
#include "tools/cli/json.h"
#include "tools/cli/text_output.h"

namespace lexico::cli {
namespace {

struct ChatOptions {
  v1::GenerateRequest request;
  v1::CreateSessionRequest create;
  std::string document;
};

std::atomic<bool> g_interrupted = false;  // set by the handler below, which can reach nothing else

// While alive, Ctrl-C sets the flag instead of ending the program.
class InterruptGuard {
 public:
  InterruptGuard() {
    g_interrupted = false;
    struct sigaction action {};
    action.sa_handler = [](int) { g_interrupted = true; };
    action.sa_flags = SA_RESTART;
    sigaction(SIGINT, &action, &before_);
  }
  ~InterruptGuard() { sigaction(SIGINT, &before_, nullptr); }

 private:
  struct sigaction before_ {};
};

// The session of that id, made if there is none.
absl::StatusOr<v1::Session> CreateOrResume(const Client& client,
                                           const v1::CreateSessionRequest& create) {
  if (!create.session_id().empty()) {
    v1::GetSessionRequest request;
    request.set_session_id(create.session_id());
    auto session = client.Call(&v1::Inference::Stub::GetSession, request);
    if (session.ok() || !absl::IsNotFound(session.status())) return session;
  }
  return client.Call(&v1::Inference::Stub::CreateSession, create);
}

absl::Status ShowSession(const Client& client, const std::string& id) {
  v1::GetSessionRequest request;
  request.set_session_id(id);
  LEXICO_ASSIGN_OR_RETURN(const v1::Session session,
                          client.Call(&v1::Inference::Stub::GetSession, request));
  fmt::print("{}", FormatSession(session));
  return absl::OkStatus();
}

absl::Status AnswerLine(const Globals& globals, const Client& client,
                        const v1::GenerateRequest& request) {
  const InterruptGuard guard;
  const auto show = [&](std::string_view text) {
    if (globals.json) return;
    fmt::print("{}", text);
    std::fflush(stdout);
  };
  const absl::StatusOr<Answer> answer = Generate(client, request, show, &g_interrupted);
  if (!globals.json) fmt::print("\n");
  if (g_interrupted && !answer.ok() && absl::IsCancelled(answer.status())) return absl::OkStatus();
  if (!answer.ok()) return answer.status();
  if (globals.json) {
    PrintJson(AnswerToJson(*answer));
  } else if (isatty(STDERR_FILENO)) {
    fmt::print(stderr, "\033[2m{}\033[0m\n",
               FormatUsage(answer->finished.usage(), answer->finished.timing()));
  }
  return absl::OkStatus();
}

// One line of input. False: the conversation is over. An error is printed and the loop goes on,
// unless the server is gone or input is not a terminal.
absl::StatusOr<bool> TakeLine(const Globals& globals, const Client& client,
                              v1::GenerateRequest& request, const std::string& line) {
  if (line == "/quit" || line == "/exit") return false;
  if (line.empty()) return true;
  if (line == "/help") {
    fmt::print(
        "/show  what the session takes\n/append FILE  read a document\n/quit  leave; the "
        "session stays\n");
    return true;
  }
  if (line == "/show") {
    LEXICO_RETURN_IF_ERROR(ShowSession(client, request.session_id()));
    return true;
  }
  if (line.starts_with("/append ")) {
    LEXICO_ASSIGN_OR_RETURN(const auto response,
                            AppendFile(client, request.session_id(), line.substr(8)));
    fmt::print("{}\n", FormatUsage(response.usage(), response.timing()));
    return true;
  }
  if (line[0] == '/') {
    fmt::print("unknown command; /help lists them\n");
    return true;
  }
  LEXICO_RETURN_IF_ERROR(base::CheckUtf8(line));
  request.set_prompt(line);
  LEXICO_RETURN_IF_ERROR(AnswerLine(globals, client, request));
  return true;
}

absl::Status Chat(const Globals& globals, const ChatOptions& options) {
  LEXICO_ASSIGN_OR_RETURN(const Client client, Client::Connect(globals));
  LEXICO_ASSIGN_OR_RETURN(const v1::Session session, CreateOrResume(client, options.create));
  v1::GenerateRequest request = options.request;
  request.set_session_id(session.session_id());
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (terminal) {
    fmt::print("session {}, {} tokens, model {}; /help for commands\n", session.session_id(),
               HumanCount(session.n_tokens()), session.model());
  }
  if (!options.document.empty()) {
    LEXICO_RETURN_IF_ERROR(AppendFile(client, session.session_id(), options.document).status());
  }
  std::string line;
  while (true) {
    if (terminal) {
      fmt::print("> ");
      std::fflush(stdout);
    }
    if (!std::getline(std::cin, line)) break;
    const absl::StatusOr<bool> more = TakeLine(globals, client, request, line);
    if (!more.ok()) {
      if (!terminal || absl::IsNotFound(more.status())) return more.status();
      fmt::print(stderr, "{}\n", ErrorLine(more.status(), globals));
    } else if (!*more) {
      break;
    }
  }
  if (terminal) fmt::print("resume with: lexico chat {}\n", session.session_id());
  return absl::OkStatus();
}

}  // namespace

void AddChatCommand(CLI::App& app, Command& command) {
  auto options = std::make_shared<ChatOptions>();
  auto* chat = app.add_subcommand("chat", "Talk on the terminal, in a new or an old session");
  chat->add_option_function<std::string>(
      "id", [options](const std::string& id) { options->create.set_session_id(id); },
      "The session to resume, or to make under this id; a new one when absent");
  chat->add_option("--document", options->document, "Read this file into the session first")
      ->type_name(kPathType);
  chat->add_option_function<std::string>(
      "--model", [options](const std::string& model) { options->create.set_model(model); },
      "Model of a new session");
  chat->add_option_function<std::string>(
      "--profile", [options](const std::string& name) { options->create.set_profile(name); },
      "Profile of a new session");
  chat->add_option_function<std::string>(
      "--system", [options](const std::string& text) { options->create.set_system_prompt(text); },
      "System prompt of a new session");
  AddGenerateFlags(*chat, options->request);
  chat->footer(R"(Ctrl-C stops an answer; at the prompt it ends the chat. The session stays.
Examples:
  lexico chat
  lexico chat notes --document handbook.txt
  printf 'First question?\nSecond question?\n' | lexico chat notes)");
  Bind(chat, command, options, &Chat);
}

}  // namespace lexico::cli

// lexico session append.
#include <fmt/format.h>

#include <thread>

#include "absl/synchronization/notification.h"
#include "proto/base/options.h"
#include "proto/base/status.h"
#include "tools/cli/append.h"
#include "tools/cli/command.h"
#include "tools/cli/json.h"
#include "tools/cli/text_input.h"
#include "tools/cli/text_output.h"

namespace lexico::cli {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(300);

// Shows how far the prefill is by asking for the session until it is stopped.
class PrefillWatch {
 public:
  PrefillWatch(const Client& client, const std::string& session_id) {
    thread_ = std::thread([this, &client, session_id] { Watch(client, session_id); });
  }
  ~PrefillWatch() {
    done_.Notify();
    thread_.join();
  }

 private:
  void Watch(const Client& client, const std::string& session_id) {
    Progress progress("reading");
    if (!progress.enabled()) return;
    v1::GetSessionRequest request;
    request.set_session_id(session_id);
    double fraction = 0;
    for (int round = 0; !done_.WaitForNotificationWithTimeout(absl::Milliseconds(60)); ++round) {
      if (round % (kPoll / absl::Milliseconds(60)) == 0) {
        const auto session =
            client.Call(&v1::Inference::Stub::GetSession, request, absl::Seconds(5));
        if (session.ok()) fraction = session->prefill_fraction();
      }
      if (fraction > 0) {
        progress.Update(std::min(fraction, 0.999), "");
      } else {
        progress.Spin("");
      }
    }
  }

  absl::Notification done_;
  std::thread thread_;
};

absl::Status Send(grpc::ClientWriter<v1::AppendTextRequest>& writer, const std::string& session_id,
                  const std::string& path) {
  const size_t size = FileBytes(path);
  Progress progress("sending");
  v1::AppendTextRequest request;
  request.set_session_id(session_id);
  // An empty file is sent as well: the server says what it thinks of it.
  if (!writer.Write(request)) return absl::OkStatus();  // the final status says why
  return ReadTextFile(path, [&](std::string_view chunk, size_t total) {
    v1::AppendTextRequest message;
    message.set_text(std::string(chunk));
    if (!writer.Write(message)) return absl::CancelledError("stream ended");
    const std::string note = base::HumanBytes(static_cast<double>(total));
    if (size > 0) {
      progress.Update(static_cast<double>(total) / static_cast<double>(size), note);
    } else {
      progress.Spin(note);
    }
    return absl::OkStatus();
  });
}

struct AppendOptions {
  std::string id;
  std::string path = "-";
};

absl::Status Append(const Globals& globals, const AppendOptions& options) {
  LEXICO_ASSIGN_OR_RETURN(const Client client, Client::Connect(globals));
  LEXICO_ASSIGN_OR_RETURN(const v1::AppendTextResponse response,
                          AppendFile(client, options.id, options.path));
  if (globals.json) {
    PrintJson(ToJson(response));
  } else {
    fmt::print("{}\n{}: {} tokens\n", FormatUsage(response.usage(), response.timing()), options.id,
               HumanCount(response.session().n_tokens()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::AppendTextResponse> AppendFile(const Client& client,
                                                  const std::string& session_id,
                                                  const std::string& path) {
  const auto context = client.NewContext(absl::ZeroDuration());
  v1::AppendTextResponse response;
  const auto writer = client.inference().AppendText(context.get(), &response);
  const absl::Status sent = Send(*writer, session_id, path);
  if (!sent.ok() && !absl::IsCancelled(sent)) {
    context->TryCancel();  // nothing of a broken document stays in the session
    writer->Finish();
    return sent;
  }
  writer->WritesDone();
  grpc::Status status;
  {
    const PrefillWatch watch(client, session_id);
    status = writer->Finish();
  }
  LEXICO_RETURN_IF_ERROR(client.Convert(status, absl::ZeroDuration()));
  return response;
}

absl::StatusOr<v1::AppendTextResponse> AppendString(const Client& client,
                                                    const std::string& session_id,
                                                    std::string_view text) {
  const auto context = client.NewContext(absl::ZeroDuration());
  v1::AppendTextResponse response;
  const auto writer = client.inference().AppendText(context.get(), &response);
  v1::AppendTextRequest message;
  message.set_session_id(session_id);
  bool is_open = writer->Write(message);
  message.clear_session_id();
  for (size_t at = 0; is_open && at < text.size(); at += kChunkBytes) {
    message.set_text(std::string(text.substr(at, kChunkBytes)));
    is_open = writer->Write(message);
  }
  writer->WritesDone();
  LEXICO_RETURN_IF_ERROR(client.Convert(writer->Finish(), absl::ZeroDuration()));
  return response;
}

void AddAppendCommand(CLI::App& session, Command& command) {
  auto options = std::make_shared<AppendOptions>();
  auto* append = session.add_subcommand("append", "Read a document into a session");
  append->add_option("id", options->id, "The session")->required();
  append->add_option("file", options->path, "UTF-8 text; - or nothing: standard input")
      ->type_name(kPathType);
  append->footer(R"(The document is one unit: when reading fails, nothing of it is in the session.
Examples:
  lexico session append notes handbook.txt
  pdftotext report.pdf - | lexico session append notes)");
  Bind(append, command, options, &Append);
}

}  // namespace lexico::cli

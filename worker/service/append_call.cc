#include "worker/service/append_call.h"

#include <fmt/format.h>

#include "absl/time/clock.h"
#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "proto/base/utf8.h"
#include "proto/rpc/status_map.h"
#include "worker/service/call_events.h"

namespace lexico::worker {
namespace {

// The end of a stream can be seen a moment before the cancellation that caused it, and half a
// document must not be taken for a whole one.
constexpr absl::Duration kCancelSettles = absl::Milliseconds(2);

absl::StatusOr<std::string> ReadDocument(const NextChunk& next, v1::WorkerAppendRequest* message,
                                         const std::function<bool()>& is_gone) {
  std::string text;
  base::Utf8Validator validator;
  do {
    if (message->text().size() > base::kTextChunkBytesMax) {
      return absl::InvalidArgumentError(fmt::format("a message has {} bytes of text, at most {}",
                                                    message->text().size(),
                                                    base::kTextChunkBytesMax));
    }
    LEXICO_RETURN_IF_ERROR(validator.Push(message->text()));
    text += message->text();
    if (text.size() > base::kAppendBytesMax) {
      return absl::InvalidArgumentError(
          fmt::format("the document has at least {} bytes, at most {}; split it over several calls",
                      text.size(), base::kAppendBytesMax));
    }
  } while (next(message));
  absl::SleepFor(kCancelSettles);
  if (is_gone()) return absl::CancelledError("the client went away");
  LEXICO_RETURN_IF_ERROR(validator.Finish());
  return text;
}

// Runs the engine's call. An empty list of ids (a text of punctuation that waits for what follows)
// needs none.
absl::StatusOr<CallResult> Prefill(ServiceContext& context, AppendRequest request,
                                   const SessionRecord& record,
                                   const std::function<bool()>& is_gone) {
  CallResult none;
  if (request.ids.empty()) return none;
  const auto events = std::make_shared<CallEvents>();
  CallCallbacks callbacks;
  callbacks.on_progress = [fraction = record.prefill_fraction](double done) { *fraction = done; };
  callbacks.on_finished = [events](absl::StatusOr<CallResult> result) {
    events->Finish(std::move(result));
  };
  const auto call = context.engine->Append(std::move(request), std::move(callbacks));
  if (!call.ok()) return FromEngine(call.status());
  absl::StatusOr<CallResult> result =
      events->Drain([](const v1::GenerateEvent&) { return true; },
                    [&] { return is_gone() || context.phase == Phase::kEnding; },
                    [&] { context.engine->Cancel(*call); });
  *record.prefill_fraction = 0;
  if (!result.ok()) {
    return context.phase == Phase::kEnding ? Leaving(context) : FromEngine(result.status());
  }
  return result;
}

}  // namespace

absl::Status AppendDocument(ServiceContext& context, absl::Time deadline, const NextChunk& next,
                            const std::function<bool()>& is_gone,
                            v1::AppendTextResponse* response) {
  v1::WorkerAppendRequest message;
  if (!next(&message) || message.session().session_id().empty()) {
    return absl::InvalidArgumentError("the first message of Append must name a session");
  }
  LEXICO_ASSIGN_OR_RETURN(SessionTable::Use use, AcquireSession(context, message.session()));
  LEXICO_ASSIGN_OR_RETURN(const std::string text, ReadDocument(next, &message, is_gone));
  LEXICO_ASSIGN_OR_RETURN(Conversation::Step step,
                          use.record.conversation.Append(*context.text, text));
  AppendRequest request{
      .session_id = use.record.session_id, .ids = std::move(step.ids), .deadline = deadline};
  LEXICO_ASSIGN_OR_RETURN(const CallResult result,
                          Prefill(context, std::move(request), use.record, is_gone));
  use.record.conversation = std::move(step.after);
  use.record.is_settled = true;
  use.record.last_use_time = absl::Now();
  if (!use.Save()) {
    return rpc::WithDetail(
        absl::AbortedError(fmt::format("session {} was taken away", use.record.session_id)),
        "epoch_stale");
  }
  if (context.store != nullptr) LEXICO_RETURN_IF_ERROR(context.store->Commit(use.record));
  LEXICO_ASSIGN_OR_RETURN(const SessionRecord record,
                          context.table->Get(use.record.session_id, use.record.epoch));
  LEXICO_ASSIGN_OR_RETURN(*response->mutable_session(), DescribeSession(context, record));
  *response->mutable_usage() = UsageToProto(result.usage);
  *response->mutable_timing() = TimingToProto(result.timing);
  return absl::OkStatus();
}

}  // namespace lexico::worker

#include "coordinator/service/append.h"

#include <fmt/format.h>

#include "absl/time/clock.h"
#include "coordinator/service/convert.h"
#include "coordinator/service/errors.h"
#include "coordinator/service/validate.h"
#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "proto/rpc/status_map.h"

namespace lexico::coord {
namespace {

// A read that fails because the client cancelled can be seen a moment before the cancellation
// itself. Half a document must not be taken for a whole one, so the end of a stream is believed
// only after this long without a cancellation.
constexpr absl::Duration kCancelSettles = absl::Milliseconds(2);

absl::Status CheckChunk(const v1::AppendTextRequest& chunk, const std::string& session_id,
                        size_t total_bytes) {
  if (!chunk.session_id().empty() && chunk.session_id() != session_id) {
    return absl::InvalidArgumentError(
        fmt::format("a later message names session {}, the first {}; one call is one session",
                    chunk.session_id(), session_id));
  }
  if (chunk.text().size() > base::kTextChunkBytesMax) {
    return absl::InvalidArgumentError(fmt::format("a message has {} bytes of text, at most {}",
                                                  chunk.text().size(), base::kTextChunkBytesMax));
  }
  if (total_bytes > base::kAppendBytesMax) {
    return absl::InvalidArgumentError(
        fmt::format("the document has at least {} bytes, at most {}; split it over several calls",
                    total_bytes, base::kAppendBytesMax));
  }
  return absl::OkStatus();
}

// Pumps the client's messages into the worker's stream. OK when the client ended the document or
// the worker stopped listening.
absl::Status Pump(const Caller& caller, const ChunkSource& next_chunk, v1::AppendTextRequest* chunk,
                  v1::WorkerAppendRequest* message,
                  grpc::ClientWriterInterface<v1::WorkerAppendRequest>* writer) {
  const std::string session_id = chunk->session_id();
  size_t total_bytes = 0;
  do {
    total_bytes += chunk->text().size();
    LEXICO_RETURN_IF_ERROR(CheckChunk(*chunk, session_id, total_bytes));
    message->set_text(std::move(*chunk->mutable_text()));
    if (!writer->Write(*message)) return absl::OkStatus();  // its status says why
    message->clear_session();
  } while (next_chunk(chunk));
  absl::SleepFor(kCancelSettles);
  LEXICO_RETURN_IF_ERROR(caller.StillThere());
  writer->WritesDone();
  return absl::OkStatus();
}

}  // namespace

absl::Status AppendDocument(Cluster& cluster, Mover& mover, const Caller& caller,
                            const ChunkSource& next_chunk, v1::AppendTextResponse* response) {
  v1::AppendTextRequest chunk;
  if (!next_chunk(&chunk)) {
    return absl::InvalidArgumentError("AppendText without a message; the first has session_id");
  }
  LEXICO_RETURN_IF_ERROR(CheckName("session_id", chunk.session_id()));
  const std::string session_id = chunk.session_id();
  LEXICO_ASSIGN_OR_RETURN(const Hold hold, cluster.BeginCall(caller, session_id));
  LEXICO_ASSIGN_OR_RETURN(const Located located, mover.Locate(caller, hold));
  LEXICO_RETURN_IF_ERROR(cluster.AssignWorker(hold, located.worker_id));

  const auto context = caller.ContextForWorker();
  const auto writer = located.stub->Append(context.get(), response);
  v1::WorkerAppendRequest message;
  message.mutable_session()->set_session_id(session_id);
  message.mutable_session()->set_epoch(located.epoch);
  const absl::Status pumped = Pump(caller, next_chunk, &chunk, &message, writer.get());
  if (!pumped.ok()) context->TryCancel();
  const absl::Status finished = rpc::FromGrpc(writer->Finish());
  if (!finished.ok() && !IsTransportFailure(finished)) cluster.MarkUnsettled(hold);
  if (!pumped.ok()) return pumped;
  if (finished.ok()) {
    cluster.UpdateFacts(session_id, located.epoch, cluster.AskFacts(),
                        FactsFromProto(response->session()));
    cluster.MarkUsed(hold, std::nullopt);
    *response->mutable_session() = SessionToProto(cluster.Held(hold), Activity::kNone);
    v1::Timing* timing = response->mutable_timing();
    timing->set_restore_us(timing->restore_us() + absl::ToInt64Microseconds(located.restore_time));
    return finished;
  }
  LEXICO_RETURN_IF_ERROR(caller.StillThere());
  if (IsTransportFailure(finished) || IsStaleOwner(finished)) {
    LEXICO_RETURN_IF_ERROR(mover.Fence(hold, located.worker_id, IsTransportFailure(finished)));
    return WorkerLost(session_id, located.worker_id,
                      "it may have stored the document before its reply was lost: send it again "
                      "only if GetSession shows as many tokens as before");
  }
  return base::Annotate(finished, fmt::format("worker {}", located.worker_id));
}

}  // namespace lexico::coord

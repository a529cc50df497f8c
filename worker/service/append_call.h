// One Append call: the chunks of a document to one text, the text to ids, the ids into the session.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "lexico/v1/worker.pb.h"
#include "worker/service/service_context.h"

namespace lexico::worker {

// Reads the next message; false at the end of the stream, or when the client has gone.
using NextChunk = std::function<bool(v1::WorkerAppendRequest*)>;

// Blocks until every token is prefilled and coded. InvalidArgument: no first message with a
// session, text that is not UTF-8 (with the byte offset), empty, or over its limits.
absl::Status AppendDocument(ServiceContext& context, absl::Time deadline, const NextChunk& next,
                            const std::function<bool()>& is_gone, v1::AppendTextResponse* response);

}  // namespace lexico::worker

// One AppendText call: the document goes from the client to the session's worker chunk by chunk.
//
// One chunk is in memory at a time; the worker's reading speed is the client's writing speed (gRPC
// flow control). The document is therefore gone when the worker is lost: the session is fenced at
// its state before the call, and the client, which still has the document, is told to send it
// again (UNAVAILABLE "worker_lost").
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "coordinator/service/caller.h"
#include "coordinator/service/cluster.h"
#include "coordinator/service/mover.h"
#include "lexico/v1/inference.pb.h"

namespace lexico::coord {

// Reads the client's next message; false at the end of the stream, or when the client has gone.
using ChunkSource = std::function<bool(v1::AppendTextRequest*)>;

// Blocks until the worker has coded every token. InvalidArgument for a chunk or document over its
// limit, a first message without session_id, or another session_id later.
absl::Status AppendDocument(Cluster& cluster, Mover& mover, const Caller& caller,
                            const ChunkSource& next_chunk, v1::AppendTextResponse* response);

}  // namespace lexico::coord

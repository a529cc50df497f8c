// One Generate call: from the client's request to its last event, over as many workers as it takes.
//
// Events are passed on as they come, one in memory at a time; a client that reads slowly slows the
// worker's stream (gRPC flow control), not the coordinator. When the worker is lost in the middle,
// the session is fenced, taken up by another worker at its last acknowledged state, and the same
// request runs there with the call's id and the ids that were already sent: the client sees one
// stream, with Token.index 0, 1, 2, ... and at most one Started, and the session has the turn once.
//
// Order of events towards the client (proto/lexico/v1/inference.proto) is enforced here: a worker
// that skips or repeats an index is Internal.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/service/caller.h"
#include "coordinator/service/cluster.h"
#include "coordinator/service/mover.h"
#include "lexico/v1/inference.pb.h"

namespace lexico::coord {

class GenerateCall {
 public:
  // Sends an event to the client; false when it has gone.
  using Sink = std::function<bool(const v1::GenerateEvent&)>;

  // Workers this call may be lost with before it gives up: each loss costs a restore, and the
  // fourth in one call is a sick cluster that the client should hear about.
  static constexpr int kRunsMax = 4;

  // `request` was checked by CheckGenerate.
  GenerateCall(Cluster& cluster, Mover& mover, const Caller& caller, v1::GenerateRequest request,
               absl::Time begin, Sink sink);

  // Blocks until the last event. Cancelled when the client has gone.
  absl::Status Run();

 private:
  // The stream of one worker, passed on until it ends.
  absl::Status RunOnce(const Hold& hold, const Located& located);
  // The answer is complete: what it did to the session is known before the client's stream ends.
  void NoteUse(const Hold& hold, const Located& located);
  absl::Status PassOn(v1::GenerateEvent* event, const Located& located);
  absl::Status PassOnToken(const v1::GenerateEvent& event, const Located& located);

  Cluster& cluster_;
  Mover& mover_;
  const Caller& caller_;
  v1::GenerateRequest request_;
  const absl::Time begin_;
  const Sink sink_;
  const std::string call_id_;  // of RunRequest

  std::vector<int32_t> sent_ids_;
  bool is_started_ = false;
  bool is_finished_ = false;
  absl::Time last_token_;
  v1::Usage usage_;
};

}  // namespace lexico::coord

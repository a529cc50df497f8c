// One Run call: prompt to ids, ids to text, and what becomes of the session when it ends.
//
// Runs again. A coordinator that lost a worker in the middle of a call runs it again, with the
// call's id and the ids that its client has seen (resume_ids, which may be none). Three cases:
//   - the session is as before the call: prompt and ids are prefilled, and sampling goes on
//   - those ids already end the answer: they are only appended
//   - the call had finished, and only its events were lost: the rest of the answer, from Started on
//     if need be, is read from the token log (Conversation::last_answer)
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "lexico/v1/worker.pb.h"
#include "worker/service/answer_text.h"
#include "worker/service/call_events.h"
#include "worker/service/service_context.h"

namespace lexico::worker {

class RunCall {
 public:
  // Sends an event; false when the stream is gone.
  using Send = std::function<bool(const v1::GenerateEvent&)>;
  // The client has gone.
  using IsGone = std::function<bool()>;

  RunCall(ServiceContext& context, const v1::RunRequest& request, absl::Time deadline, Send send,
          IsGone is_gone);

  // Blocks until the last event.
  absl::Status Run();

 private:
  // Bounds max_new_tokens by what is left of the model's positions; "context_full" when nothing is.
  absl::Status FitIntoPositions();
  // Whether, and how, resume_ids already end the answer.
  v1::FinishReason ResumedEnd();
  absl::Status Replay(const SessionTable::Use& use);
  absl::Status AppendResumed(SessionTable::Use& use, v1::FinishReason reason);
  absl::Status Generate(SessionTable::Use& use);
  CallCallbacks Callbacks(const std::shared_ptr<CallEvents>& events);
  TokenVerdict OnToken(const GeneratedToken& token, CallEvents& events);
  // After the engine's call, whatever its outcome.
  absl::Status Settle(SessionTable::Use& use, const absl::StatusOr<CallResult>& result);
  absl::Status Save(SessionTable::Use& use, v1::FinishReason reason, int64_t n_answer_tokens);
  v1::GenerateEvent StartedEvent(const v1::Usage& usage) const;
  bool SendFinished(v1::FinishReason reason, const v1::Usage& usage, const v1::Timing& timing);

  ServiceContext& context_;
  v1::GenerateRequest request_;
  const v1::SessionAtEpoch session_;
  const std::vector<int32_t> resume_ids_;
  const absl::Time deadline_;
  const Send send_;
  const IsGone is_gone_;
  const std::string call_id_;

  Conversation::Step step_;
  int64_t n_log_before_ = 0;  // where the call begins in the log
  // The engine's thread uses these until the call has finished, ours afterwards.
  std::shared_ptr<AnswerText> text_;
};

// What may be asked: sizes, counts and UTF-8, with both values in the message.
absl::Status CheckRunRequest(const v1::RunRequest& request);

}  // namespace lexico::worker

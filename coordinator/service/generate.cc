#include "coordinator/service/generate.h"

#include <fmt/format.h>

#include <cstdint>
#include <random>
#include <utility>

#include "absl/time/clock.h"
#include "coordinator/service/errors.h"
#include "coordinator/service/facts.h"
#include "coordinator/service/worker_call.h"
#include "proto/base/status.h"
#include "proto/rpc/status_map.h"

namespace lexico::coord {
namespace {

std::string NewCallId() {
  std::random_device random;
  std::string id;
  while (id.size() < 16) {
    const uint32_t word = random();
    id.append(reinterpret_cast<const char*>(&word), sizeof(word));
  }
  return id;
}

}  // namespace

GenerateCall::GenerateCall(Cluster& cluster, Mover& mover, const Caller& caller,
                           v1::GenerateRequest request, absl::Time begin, Sink sink)
    : cluster_(cluster),
      mover_(mover),
      caller_(caller),
      request_(std::move(request)),
      begin_(begin),
      sink_(std::move(sink)),
      call_id_(NewCallId()) {}

absl::Status GenerateCall::Run() {
  LEXICO_ASSIGN_OR_RETURN(const Hold hold, cluster_.BeginCall(caller_, request_.session_id()));
  std::string lost_worker;
  for (int run = 0; run < kRunsMax; ++run) {
    LEXICO_RETURN_IF_ERROR(caller_.StillThere());
    LEXICO_ASSIGN_OR_RETURN(const Located located, mover_.Locate(caller_, hold));
    LEXICO_RETURN_IF_ERROR(cluster_.AssignWorker(hold, located.worker_id));
    absl::Status status = RunOnce(hold, located);
    for (const absl::Time deadline = absl::Now() + kSettleTimeout;
         IsStillStopping(status) && caller_.StillThere().ok() && absl::Now() < deadline;) {
      absl::SleepFor(kSettlePoll);
      status = RunOnce(hold, located);
    }
    if (status.ok()) {
      NoteUse(hold, located);
      return status;
    }
    if (!IsTransportFailure(status) && !IsStaleOwner(status)) {
      cluster_.MarkUnsettled(hold);
      return status;
    }
    LEXICO_RETURN_IF_ERROR(caller_.StillThere());
    LEXICO_RETURN_IF_ERROR(mover_.Fence(hold, located.worker_id, IsTransportFailure(status)));
    lost_worker = located.worker_id;
  }
  return WorkerLost(request_.session_id(), lost_worker,
                    fmt::format("{} workers were lost in this call; {} tokens were sent", kRunsMax,
                                sent_ids_.size()));
}

void GenerateCall::NoteUse(const Hold& hold, const Located& located) {
  std::optional<int64_t> n_tokens;
  if (!DescribeSession(cluster_, located.worker_id, hold.session_id(), located.epoch).ok()) {
    // Lost just now, with its answer complete.
    n_tokens = usage_.n_context_tokens() + usage_.n_prompt_tokens() + usage_.n_generated_tokens();
  }
  cluster_.MarkUsed(hold, n_tokens);
}

absl::Status GenerateCall::RunOnce(const Hold& hold, const Located& located) {
  v1::RunRequest request;
  request.mutable_session()->set_session_id(hold.session_id());
  request.mutable_session()->set_epoch(located.epoch);
  *request.mutable_request() = request_;
  request.mutable_resume_ids()->Assign(sent_ids_.begin(), sent_ids_.end());
  request.set_call_id(call_id_);

  const auto context = caller_.ContextForWorker();
  const auto reader = located.stub->Run(context.get(), request);
  v1::GenerateEvent event;
  absl::Status passed;
  while (passed.ok() && reader->Read(&event)) passed = PassOn(&event, located);
  if (!passed.ok()) context->TryCancel();
  const absl::Status finished = rpc::FromGrpc(reader->Finish());
  if (!passed.ok()) return passed;
  // The client has its Finished, and the store the answer: how the stream ends changes nothing.
  if (is_finished_) return absl::OkStatus();
  if (!finished.ok()) {
    return base::Annotate(finished, fmt::format("worker {}", located.worker_id));
  }
  return absl::InternalError(
      fmt::format("worker {} ended the stream of session {} without Finished", located.worker_id,
                  hold.session_id()));
}

absl::Status GenerateCall::PassOn(v1::GenerateEvent* event, const Located& located) {
  switch (event->event_case()) {
    case v1::GenerateEvent::kStarted:
      if (is_started_) return absl::OkStatus();
      is_started_ = true;
      // A later run must draw the same random numbers.
      request_.mutable_sampling()->set_seed(event->started().seed());
      event->mutable_started()->set_worker(located.worker_id);
      break;
    case v1::GenerateEvent::kProgress:
      if (!sent_ids_.empty()) return absl::OkStatus();  // of prefilling it again
      break;
    case v1::GenerateEvent::kToken:
      return PassOnToken(*event, located);
    case v1::GenerateEvent::kFinished: {
      is_finished_ = true;
      usage_ = event->finished().usage();
      v1::Timing* timing = event->mutable_finished()->mutable_timing();
      timing->set_restore_us(timing->restore_us() +
                             absl::ToInt64Microseconds(located.restore_time));
      break;
    }
    case v1::GenerateEvent::EVENT_NOT_SET:
      return absl::OkStatus();  // of a newer worker
  }
  return sink_(*event) ? absl::OkStatus() : absl::CancelledError("the client went away");
}

absl::Status GenerateCall::PassOnToken(const v1::GenerateEvent& event, const Located& located) {
  const auto expected = static_cast<int64_t>(sent_ids_.size());
  if (event.token().index() != expected) {
    return absl::InternalError(fmt::format("worker {} sent token {} of session {}, expected {}",
                                           located.worker_id, event.token().index(),
                                           request_.session_id(), expected));
  }
  if (!sink_(event)) return absl::CancelledError("the client went away");
  const absl::Time now = cluster_.Now();
  const bool is_first = sent_ids_.empty();
  cluster_.metrics()
      .Histogram(is_first ? "lexico_time_to_first_token_seconds"
                          : "lexico_inter_token_latency_seconds")
      .Observe(absl::ToDoubleSeconds(now - (is_first ? begin_ : last_token_)));
  last_token_ = now;
  sent_ids_.push_back(event.token().id());
  return absl::OkStatus();
}

}  // namespace lexico::coord

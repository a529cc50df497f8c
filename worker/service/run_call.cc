#include "worker/service/run_call.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>

#include "absl/time/clock.h"
#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "proto/base/utf8.h"
#include "proto/rpc/status_map.h"
#include "worker/engine/errors.h"

namespace lexico::worker {
namespace {

constexpr int kNewTokensDefault = 256;
constexpr double kProgressStep = 0.01;

SamplingParams ToParams(const v1::SamplingParams& in) {
  SamplingParams out;
  out.temperature = in.temperature();
  out.top_k = in.top_k();
  if (in.top_p() != 0) out.top_p = in.top_p();
  out.min_p = in.min_p();
  if (in.repetition_penalty() != 0) out.repetition_penalty = in.repetition_penalty();
  out.seed = in.seed();
  out.n_logprobs = in.n_logprobs();
  return out;
}

uint64_t RandomSeed() {
  std::random_device random;
  const uint64_t seed = (static_cast<uint64_t>(random()) << 32) | random();
  return seed == 0 ? 1 : seed;
}

base::Fingerprint FingerprintOf(const std::string& call_id) {
  return base::FingerprintBuilder().Add(call_id).Finish();
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kStopString:
      return v1::FINISH_REASON_STOP_STRING;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

v1::GenerateEvent TokenEvent(int64_t index, const SampledToken& sampled, std::string text) {
  v1::GenerateEvent event;
  v1::GenerateEvent::Token* token = event.mutable_token();
  token->set_index(index);
  token->set_id(sampled.id);
  token->set_text(std::move(text));
  token->set_logprob(sampled.logprob);
  for (const TokenLogprob& other : sampled.top) {
    v1::Logprob* logprob = token->add_top_logprobs();
    logprob->set_id(other.id);
    logprob->set_logprob(other.logprob);
  }
  return event;
}

}  // namespace

absl::Status CheckRunRequest(const v1::RunRequest& run) {
  const v1::GenerateRequest& request = run.request();
  if (request.prompt().size() > base::kPromptBytesMax) {
    return absl::InvalidArgumentError(
        fmt::format("the prompt has {} bytes, at most {}; longer text goes through AppendText",
                    request.prompt().size(), base::kPromptBytesMax));
  }
  LEXICO_RETURN_IF_ERROR(base::Annotate(base::CheckUtf8(request.prompt()), "prompt"));
  if (request.max_new_tokens() < 0 || request.max_new_tokens() > base::kNewTokensMax) {
    return absl::InvalidArgumentError(fmt::format("max_new_tokens is {}, must be within 0 and {}",
                                                  request.max_new_tokens(), base::kNewTokensMax));
  }
  if (request.stop_size() > base::kStopStringsMax) {
    return absl::InvalidArgumentError(
        fmt::format("{} stop strings, at most {}", request.stop_size(), base::kStopStringsMax));
  }
  for (const std::string& stop : request.stop()) {
    if (stop.empty() || stop.size() > base::kStopStringBytesMax) {
      return absl::InvalidArgumentError(fmt::format("a stop string has {} bytes, must have 1 to {}",
                                                    stop.size(), base::kStopStringBytesMax));
    }
    LEXICO_RETURN_IF_ERROR(base::Annotate(base::CheckUtf8(stop), "stop"));
  }
  const int n_logprobs = request.sampling().n_logprobs();
  if (n_logprobs < 0 || n_logprobs > base::kLogprobsMax) {
    return absl::InvalidArgumentError(
        fmt::format("n_logprobs is {}, must be within 0 and {}", n_logprobs, base::kLogprobsMax));
  }
  return ToParams(request.sampling()).Validate();
}

RunCall::RunCall(ServiceContext& context, const v1::RunRequest& request, absl::Time deadline,
                 Send send, IsGone is_gone)
    : context_(context),
      request_(request.request()),
      session_(request.session()),
      resume_ids_(request.resume_ids().begin(), request.resume_ids().end()),
      deadline_(deadline),
      send_(std::move(send)),
      is_gone_(std::move(is_gone)),
      call_id_(request.call_id()) {
  if (request_.max_new_tokens() == 0) request_.set_max_new_tokens(kNewTokensDefault);
  if (request_.sampling().seed() == 0) request_.mutable_sampling()->set_seed(RandomSeed());
  text_ = std::make_shared<AnswerText>(
      context.text->tokenizer,
      std::vector<std::string>(request_.stop().begin(), request_.stop().end()));
}

absl::Status RunCall::Run() {
  LEXICO_ASSIGN_OR_RETURN(SessionTable::Use use, AcquireSession(context_, session_));
  const absl::StatusOr<SessionInfo> info = context_.engine->Describe(session_.session_id());
  if (!info.ok()) return FromEngine(info.status());
  n_log_before_ = info->n_tokens;
  const auto& last = use.record.conversation.last_answer();
  if (!call_id_.empty() && last.has_value() && last->call == FingerprintOf(call_id_)) {
    return Replay(use);
  }
  LEXICO_ASSIGN_OR_RETURN(step_, use.record.conversation.Prompt(*context_.text, request_.prompt()));
  LEXICO_RETURN_IF_ERROR(FitIntoPositions());
  const v1::FinishReason resumed_end = ResumedEnd();
  if (resumed_end != v1::FINISH_REASON_UNSPECIFIED) return AppendResumed(use, resumed_end);
  return Generate(use);
}

absl::Status RunCall::FitIntoPositions() {
  // The last token must be known when it is sent, because held-back text goes with it; and the
  // turn must be closed within the model's positions, or no worker could take the session up.
  const auto n_prompt = static_cast<int64_t>(step_.ids.size());
  const bool is_chat = step_.after.format() == v1::TEXT_FORMAT_CHAT;
  const size_t n_closing = is_chat ? context_.text->closing_otherwise.size() : 0;
  const int64_t n_room =
      context_.max_positions - n_log_before_ - n_prompt - static_cast<int64_t>(n_closing);
  if (n_room <= 0) {
    return rpc::WithDetail(
        absl::FailedPreconditionError(fmt::format(
            "session {} has {} tokens and the prompt {}, this model has {} positions; nothing is "
            "left for an answer",
            session_.session_id(), n_log_before_, n_prompt, context_.max_positions)),
        kReasonContextFull);
  }
  if (n_room < request_.max_new_tokens()) {
    request_.set_max_new_tokens(static_cast<int32_t>(n_room));
  }
  return absl::OkStatus();
}

v1::FinishReason RunCall::ResumedEnd() {
  text_->Skip(resume_ids_);
  if (resume_ids_.empty()) return v1::FINISH_REASON_UNSPECIFIED;
  if (text_->stopped()) return v1::FINISH_REASON_STOP_STRING;
  const auto& ends = context_.text->end_ids;
  if (!request_.ignore_end_tokens() &&
      std::find(ends.begin(), ends.end(), resume_ids_.back()) != ends.end()) {
    return v1::FINISH_REASON_STOP;
  }
  const bool is_full = static_cast<int64_t>(resume_ids_.size()) >= request_.max_new_tokens();
  return is_full ? v1::FINISH_REASON_LENGTH : v1::FINISH_REASON_UNSPECIFIED;
}

v1::GenerateEvent RunCall::StartedEvent(const v1::Usage& usage) const {
  v1::GenerateEvent event;
  *event.mutable_started()->mutable_usage() = usage;
  event.mutable_started()->set_seed(request_.sampling().seed());
  event.mutable_started()->set_worker(context_.worker_id);
  event.mutable_started()->set_position(n_log_before_);
  return event;
}

bool RunCall::SendFinished(v1::FinishReason reason, const v1::Usage& usage,
                           const v1::Timing& timing) {
  v1::GenerateEvent event;
  event.mutable_finished()->set_reason(reason);
  *event.mutable_finished()->mutable_usage() = usage;
  *event.mutable_finished()->mutable_timing() = timing;
  if (text_->stopped()) event.mutable_finished()->set_stop_string(text_->stop_string());
  return send_(event);
}

absl::Status RunCall::Replay(const SessionTable::Use& use) {
  const LastAnswer answer = *use.record.conversation.last_answer();
  const auto snapshot = context_.engine->Export(session_.session_id(), /*with_window=*/false);
  if (!snapshot.ok()) return FromEngine(snapshot.status());
  const std::vector<uint32_t>& log = snapshot->manifest.tokens;
  const std::vector<int32_t> ids(log.begin() + answer.first_token,
                                 log.begin() + answer.first_token + answer.n_tokens);
  if (resume_ids_.size() > ids.size() ||
      !std::equal(resume_ids_.begin(), resume_ids_.end(), ids.begin())) {
    return absl::InternalError(fmt::format(
        "session {}: the {} ids that were sent are not those of the stored answer ({} ids)",
        session_.session_id(), resume_ids_.size(), ids.size()));
  }
  n_log_before_ = answer.position;
  request_.mutable_sampling()->set_seed(answer.seed);
  // As if the answer had been computed now: ids that were sent before count as prompt then.
  const auto n_sent = static_cast<int64_t>(resume_ids_.size());
  v1::Usage usage;
  usage.set_n_context_tokens(answer.position);
  usage.set_n_prompt_tokens(answer.first_token - answer.position + n_sent);
  send_(StartedEvent(usage));
  usage.set_n_generated_tokens(answer.n_tokens - n_sent);
  text_->Skip(resume_ids_);
  for (size_t i = resume_ids_.size(); i < ids.size(); ++i) {
    const std::string text = text_->Push(ids[i], i + 1 == ids.size());
    SampledToken token;
    token.id = ids[i];
    if (!send_(TokenEvent(static_cast<int64_t>(i), token, text))) break;
  }
  SendFinished(answer.reason, usage, v1::Timing());
  return absl::OkStatus();
}

absl::Status RunCall::AppendResumed(SessionTable::Use& use, v1::FinishReason reason) {
  AppendRequest request;
  request.session_id = session_.session_id();
  request.deadline = deadline_;
  request.ids = step_.ids;
  request.ids.insert(request.ids.end(), resume_ids_.begin(), resume_ids_.end());
  if (use.record.conversation.format() == v1::TEXT_FORMAT_CHAT) {
    const auto& closing = reason == v1::FINISH_REASON_STOP ? context_.text->closing_after_end
                                                           : context_.text->closing_otherwise;
    request.ids.insert(request.ids.end(), closing.begin(), closing.end());
  }
  const auto events = std::make_shared<CallEvents>();
  CallCallbacks callbacks;
  callbacks.on_finished = [events](absl::StatusOr<CallResult> result) {
    events->Finish(std::move(result));
  };
  const auto call = context_.engine->Append(std::move(request), std::move(callbacks));
  if (!call.ok()) return FromEngine(call.status());
  const absl::StatusOr<CallResult> result =
      events->Drain([](const v1::GenerateEvent&) { return true; },
                    [this] { return is_gone_() || context_.phase == Phase::kEnding; },
                    [this, &call] { context_.engine->Cancel(*call); });
  if (!result.ok()) {
    return context_.phase == Phase::kEnding ? Leaving(context_) : FromEngine(result.status());
  }
  send_(StartedEvent(UsageToProto(result->usage)));
  LEXICO_RETURN_IF_ERROR(Save(use, reason, static_cast<int64_t>(resume_ids_.size())));
  SendFinished(reason, UsageToProto(result->usage), TimingToProto(result->timing));
  return absl::OkStatus();
}

TokenVerdict RunCall::OnToken(const GeneratedToken& token, CallEvents& events) {
  const bool is_last = token.is_end || token.index + 1 >= request_.max_new_tokens();
  events.Push(TokenEvent(token.index, token.sampled, text_->Push(token.sampled.id, is_last)));
  return text_->stopped() ? TokenVerdict::kStopString : TokenVerdict::kContinue;
}

CallCallbacks RunCall::Callbacks(const std::shared_ptr<CallEvents>& events) {
  CallCallbacks callbacks;
  callbacks.on_started = [this, events](const CallUsage& usage) {
    events->Push(StartedEvent(UsageToProto(usage)));
  };
  callbacks.on_progress = [events, last = 0.0](double fraction) mutable {
    if (fraction < last + kProgressStep && fraction < 1) return;
    last = fraction;
    v1::GenerateEvent event;
    event.mutable_progress()->set_fraction(fraction);
    events->Push(std::move(event));
  };
  callbacks.on_token = [this, events](const GeneratedToken& token) {
    return OnToken(token, *events);
  };
  callbacks.on_finished = [events](absl::StatusOr<CallResult> result) {
    events->Finish(std::move(result));
  };
  return callbacks;
}

absl::Status RunCall::Generate(SessionTable::Use& use) {
  GenerateRequest request;
  request.session_id = session_.session_id();
  request.prompt_ids = step_.ids;
  request.sampling = ToParams(request_.sampling());
  request.eos_ids = context_.text->end_ids;
  request.ignore_end_tokens = request_.ignore_end_tokens();
  request.resume_ids = resume_ids_;
  request.deadline = deadline_;
  if (use.record.conversation.format() == v1::TEXT_FORMAT_CHAT) {
    request.closing_ids_after_end = context_.text->closing_after_end;
    request.closing_ids_otherwise = context_.text->closing_otherwise;
  }
  request.max_new_tokens = request_.max_new_tokens();
  const auto events = std::make_shared<CallEvents>();
  const auto call = context_.engine->Generate(std::move(request), Callbacks(events));
  if (!call.ok()) return FromEngine(call.status());
  const absl::StatusOr<CallResult> result = events->Drain(
      send_, [this] { return is_gone_() || context_.phase == Phase::kEnding; },
      [this, &call] { context_.engine->Cancel(*call); });
  return Settle(use, result);
}

absl::Status RunCall::Save(SessionTable::Use& use, v1::FinishReason reason,
                           int64_t n_answer_tokens) {
  use.record.conversation = step_.after;
  // A call without an id is never asked for again.
  if (!call_id_.empty()) {
    use.record.conversation.set_last_answer(
        LastAnswer{.call = FingerprintOf(call_id_),
                   .position = n_log_before_,
                   .seed = request_.sampling().seed(),
                   .first_token = n_log_before_ + static_cast<int64_t>(step_.ids.size()),
                   .n_tokens = n_answer_tokens,
                   .reason = reason,
                   .stop_string = text_->stopped() ? text_->stop_string() : ""});
  }
  use.record.is_settled = true;
  use.record.last_use_time = absl::Now();
  if (!use.Save()) {
    return rpc::WithDetail(
        absl::AbortedError(fmt::format("session {} was taken away", session_.session_id())),
        "epoch_stale");
  }
  return context_.store == nullptr ? absl::OkStatus() : context_.store->Commit(use.record);
}

absl::Status RunCall::Settle(SessionTable::Use& use, const absl::StatusOr<CallResult>& result) {
  if (result.ok()) {
    const v1::FinishReason reason =
        text_->stopped() ? v1::FINISH_REASON_STOP_STRING : ToProto(result->reason);
    const int64_t n_answer =
        static_cast<int64_t>(resume_ids_.size()) + result->usage.n_generated_tokens;
    LEXICO_RETURN_IF_ERROR(Save(use, reason, n_answer));
    SendFinished(reason, UsageToProto(result->usage), TimingToProto(result->timing));
    return absl::OkStatus();
  }
  if (context_.phase == Phase::kEnding) {
    // The coordinator goes on elsewhere from the stored state; ours must not be written over it.
    DropSession(context_, session_.session_id(), session_.epoch());
    return Leaving(context_);
  }
  const absl::StatusOr<SessionInfo> info = context_.engine->Describe(session_.session_id());
  if (info.ok() && info->n_tokens != n_log_before_) {
    use.record.conversation = step_.after;
    use.record.is_settled = false;
    use.record.last_use_time = absl::Now();
    if (use.Save() && context_.store != nullptr) context_.store->CommitLater(session_.session_id());
  }
  return FromEngine(result.status());
}

}  // namespace lexico::worker

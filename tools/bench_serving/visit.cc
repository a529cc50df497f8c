#include "tools/bench_serving/visit.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "proto/base/status.h"
#include "proto/rpc/status_map.h"
#include "tools/cli/append.h"
#include "tools/cli/generate.h"

namespace lexico::bench_serving {
namespace {

using std::chrono::steady_clock;

// A wait looks this often whether to stop.
constexpr absl::Duration kSlice = absl::Milliseconds(20);
// After a refusal that names no time: gRPC's own, when the server has no thread left.
constexpr absl::Duration kRetryDefault = absl::Milliseconds(100);
// A session whose call was cut off is busy to the end of the worker's step.
constexpr absl::Duration kDeleteBusy = absl::Seconds(30);
constexpr absl::Duration kDeleteOther = absl::Seconds(1);
constexpr absl::Duration kDeletePause = absl::Milliseconds(50);

double SecondsSince(SteadyTime begin) {
  return std::chrono::duration<double>(steady_clock::now() - begin).count();
}

class Visit {
 public:
  Visit(const cli::Client& client, const VisitPlan& plan, const std::atomic<bool>& stop)
      : client_(client), plan_(plan), stop_(stop) {}

  VisitOutcome Make(SteadyTime arrival) {
    tally_.n_visits = 1;
    absl::Status status = Talk();
    if (status.ok()) tally_.samples.visit.push_back(SecondsSince(arrival));
    Settle(&status);
    if (may_exist_) Delete();
    return {.tally = std::move(tally_), .status = std::move(status)};
  }

 private:
  absl::Status Talk() {
    LEXICO_RETURN_IF_ERROR(Repeat([&] { return Create(); }));
    if (!plan_.document.empty()) LEXICO_RETURN_IF_ERROR(Repeat([&] { return Append(); }));
    for (const std::string& question : plan_.questions) {
      LEXICO_RETURN_IF_ERROR(Repeat([&] { return Ask(question); }));
    }
    return Measure();
  }

  // Calls until it is not refused; every refusal is counted.
  absl::Status Repeat(const std::function<absl::Status()>& call) {
    for (int n_left = plan_.retries_max;; --n_left) {
      if (stop_) return absl::CancelledError("interrupted");
      may_repeat_ = true;
      absl::Status status = call();
      if (!IsRefusal(status)) return status;
      tally_.Count(&tally_.refusals, status);
      if (n_left == 0 || !may_repeat_ || stop_) return status;
      const absl::Duration named = rpc::RetryAfterOf(status);
      Wait(named > absl::ZeroDuration() ? named : kRetryDefault);
      ++tally_.n_retries;
    }
  }

  void Wait(absl::Duration duration) {
    const SteadyTime begin = steady_clock::now();
    const double seconds = absl::ToDoubleSeconds(duration);
    while (!stop_ && SecondsSince(begin) < seconds) {
      absl::SleepFor(std::min(kSlice, absl::Seconds(seconds - SecondsSince(begin))));
    }
    tally_.retry_wait_s += SecondsSince(begin);
  }

  absl::Status Create() {
    v1::CreateSessionRequest request;
    request.set_session_id(plan_.session_id);
    request.set_model(plan_.model);
    request.set_profile(plan_.profile);
    const absl::Status status = client_.Call(&v1::Inference::Stub::CreateSession, request).status();
    // What broke on the way may have arrived.
    may_exist_ = status.ok() || absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
    return status;
  }

  absl::Status Append() {
    const SteadyTime begin = steady_clock::now();
    const auto response = cli::AppendString(client_, plan_.session_id, plan_.document);
    // Of an UNAVAILABLE document the worker may have taken all.
    may_repeat_ = absl::IsResourceExhausted(response.status());
    if (!response.ok()) return response.status();
    tally_.samples.append.push_back(SecondsSince(begin));
    tally_.n_prompt_tokens += response->usage().n_prompt_tokens();
    return absl::OkStatus();
  }

  absl::Status Ask(const std::string& question) {
    v1::GenerateRequest request;
    request.set_session_id(plan_.session_id);
    request.set_prompt(question);
    request.set_max_new_tokens(plan_.n_new);
    request.set_ignore_end_tokens(plan_.ignore_end);
    const auto context = client_.NewContext(absl::ZeroDuration());
    const SteadyTime begin = steady_clock::now();
    std::vector<double> times;  // of the tokens, from `begin`
    v1::Usage usage;
    const auto take = [&](const v1::GenerateEvent& event) {
      if (event.has_started()) may_repeat_ = false;
      if (event.has_token()) times.push_back(SecondsSince(begin));
      if (event.has_finished()) usage = event.finished().usage();
      if (stop_) context->TryCancel();
    };
    LEXICO_RETURN_IF_ERROR(cli::StreamGenerate(client_, *context, request, take));
    Samples& samples = tally_.samples;
    samples.answer.push_back(SecondsSince(begin));
    if (!times.empty()) samples.first_token.push_back(times[0]);
    for (size_t i = 1; i < times.size(); ++i) {
      samples.inter_token.push_back(times[i] - times[i - 1]);
    }
    tally_.n_prompt_tokens += usage.n_prompt_tokens();
    tally_.n_generated_tokens += static_cast<int64_t>(times.size());
    return absl::OkStatus();
  }

  absl::Status Measure() {
    v1::GetSessionRequest request;
    request.set_session_id(plan_.session_id);
    LEXICO_ASSIGN_OR_RETURN(const v1::Session session,
                            client_.Call(&v1::Inference::Stub::GetSession, request));
    tally_.AddMemory(session.memory());
    return absl::OkStatus();
  }

  // Counts how the visit ended.
  void Settle(absl::Status* status) {
    if (status->ok()) {
      ++tally_.n_done;
    } else if (stop_ && absl::IsCancelled(*status)) {
      ++tally_.n_interrupted;
      *status = absl::OkStatus();
    } else if (IsRefusal(*status)) {
      ++tally_.n_refused;
    } else {
      ++tally_.n_failed;
      tally_.Count(&tally_.errors, *status);
    }
  }

  void Delete() {
    v1::DeleteSessionRequest request;
    request.set_session_id(plan_.session_id);
    const SteadyTime begin = steady_clock::now();
    while (true) {
      const absl::Status status =
          client_.Call(&v1::Inference::Stub::DeleteSession, request).status();
      if (status.ok() || absl::IsNotFound(status)) return;
      const absl::Duration patience =
          absl::IsFailedPrecondition(status) ? kDeleteBusy : kDeleteOther;
      if (SecondsSince(begin) > absl::ToDoubleSeconds(patience)) {
        tally_.Count(&tally_.errors, base::Annotate(status, "DeleteSession"));
        tally_.left.push_back(plan_.session_id);
        return;
      }
      absl::SleepFor(kDeletePause);
    }
  }

  const cli::Client& client_;
  const VisitPlan& plan_;
  const std::atomic<bool>& stop_;
  Tally tally_;
  bool may_exist_ = false;
  bool may_repeat_ = true;  // the call that was just refused
};

}  // namespace

VisitOutcome MakeVisit(const cli::Client& client, const VisitPlan& plan, SteadyTime arrival,
                       const std::atomic<bool>& stop) {
  return Visit(client, plan, stop).Make(arrival);
}

}  // namespace lexico::bench_serving

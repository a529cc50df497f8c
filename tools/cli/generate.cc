#include "tools/cli/generate.h"

#include <fmt/format.h>

#include <thread>

#include "absl/synchronization/notification.h"
#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "tools/cli/json.h"
#include "tools/cli/text_output.h"

namespace lexico::cli {
namespace {

// Cancels the call once the flag is set.
class CancelWatch {
 public:
  CancelWatch(grpc::ClientContext& context, const std::atomic<bool>* flag) {
    if (flag == nullptr) return;
    thread_ = std::thread([this, &context, flag] {
      while (!done_.WaitForNotificationWithTimeout(absl::Milliseconds(50))) {
        if (flag->load()) {
          context.TryCancel();
          return;
        }
      }
    });
  }
  ~CancelWatch() {
    done_.Notify();
    if (thread_.joinable()) thread_.join();
  }

 private:
  absl::Notification done_;
  std::thread thread_;
};

template <typename T, typename Setter>
void AddNumber(CLI::App& app, const std::string& flag, const std::string& help, T low, T high,
               Setter set) {
  app.add_option_function<T>(flag, set, help)->check(CLI::Range(low, high));
}

}  // namespace

void AddGenerateFlags(CLI::App& app, v1::GenerateRequest& request) {
  v1::GenerateRequest* r = &request;
  v1::SamplingParams* s = request.mutable_sampling();
  AddNumber<int>(app, "--max-new-tokens", "End after this many tokens (default 256)", 1,
                 base::kNewTokensMax, [r](const int& n) { r->set_max_new_tokens(n); });
  AddNumber<double>(app, "--temperature", "0: always the likeliest token (default)", 0.0, 100.0,
                    [s](const double& t) { s->set_temperature(static_cast<float>(t)); });
  AddNumber<int>(app, "--top-k", "Choose among the k likeliest tokens; 0: all", 0, base::kVocabMax,
                 [s](const int& k) { s->set_top_k(k); });
  AddNumber<double>(app, "--top-p", "Choose among the likeliest with this much probability", 0.0,
                    1.0, [s](const double& p) { s->set_top_p(static_cast<float>(p)); });
  AddNumber<double>(app, "--min-p", "Drop tokens less likely than this times the likeliest", 0.0,
                    1.0, [s](const double& p) { s->set_min_p(static_cast<float>(p)); });
  AddNumber<double>(app, "--repetition-penalty", "Above 1: repeat less", 0.0, 100.0,
                    [s](const double& p) { s->set_repetition_penalty(static_cast<float>(p)); });
  app.add_option_function<uint64_t>(
      "--seed", [s](const uint64_t& seed) { s->set_seed(seed); },
      "The same seed gives the same answer; 0: chosen and reported");
  app.add_option_function<std::vector<std::string>>(
         "--stop",
         [r](const std::vector<std::string>& stops) {
           for (const std::string& stop : stops) r->add_stop(stop);
         },
         "End before this text (may be given several times)")
      ->allow_extra_args(false);
  AddNumber<int>(app, "--logprobs", "Also show this many alternatives of each token", 0,
                 base::kLogprobsMax, [s](const int& n) { s->set_n_logprobs(n); });
}

absl::Status StreamGenerate(const Client& client, grpc::ClientContext& context,
                            const v1::GenerateRequest& request,
                            const std::function<void(v1::GenerateEvent&)>& take) {
  const auto reader = client.inference().Generate(&context, request);
  v1::GenerateEvent event;
  while (reader->Read(&event)) take(event);
  return client.Convert(reader->Finish(), absl::ZeroDuration());
}

absl::StatusOr<Answer> Generate(const Client& client, const v1::GenerateRequest& request,
                                const std::function<void(std::string_view)>& show,
                                const std::atomic<bool>* cancel) {
  const auto context = client.NewContext(absl::ZeroDuration());
  const CancelWatch watch(*context, cancel);
  Answer answer;
  std::optional<Progress> progress(std::in_place, "reading");
  const auto take = [&](v1::GenerateEvent& event) {
    if (event.has_started()) answer.started = event.started();
    if (event.has_progress() && progress) progress->Update(event.progress().fraction(), "");
    if (event.has_token()) {
      progress.reset();
      show(event.token().text());
      answer.text += event.token().text();
      answer.tokens.push_back(std::move(*event.mutable_token()));
    }
    if (event.has_finished()) answer.finished = event.finished();
  };
  LEXICO_RETURN_IF_ERROR(StreamGenerate(client, *context, request, take));
  return answer;
}

nlohmann::ordered_json AnswerToJson(const Answer& answer) {
  nlohmann::ordered_json tokens = nlohmann::ordered_json::array();
  for (const auto& token : answer.tokens) tokens.push_back(ToJson(token));
  const auto* reason = v1::FinishReason_descriptor()->FindValueByNumber(answer.finished.reason());
  return {{"text", answer.text},
          {"finish_reason", EnumWord(*reason)},
          {"stop_string", answer.finished.stop_string()},
          {"tokens", std::move(tokens)},
          {"usage", ToJson(answer.finished.usage())},
          {"timing", ToJson(answer.finished.timing())},
          {"seed", answer.started.seed()},
          {"worker", answer.started.worker()}};
}

}  // namespace lexico::cli

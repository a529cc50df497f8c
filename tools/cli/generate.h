// One Generate call: its flags, and the answer as it arrives.
#pragma once

#include <atomic>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "lexico/v1/inference.pb.h"
#include "tools/cli/client.h"

namespace lexico::cli {

struct Answer {
  std::string text;
  std::vector<v1::GenerateEvent::Token> tokens;
  v1::GenerateEvent::Started started;
  v1::GenerateEvent::Finished finished;
};

// Adds --max-new-tokens, --temperature and so on; they write into `request`, which must outlive
// the parsing.
void AddGenerateFlags(CLI::App& app, v1::GenerateRequest& request);

// Runs the call and gives each event to `take` as it arrives, on this thread. `context` is one of
// client.NewContext(); others may cancel through it. Errors as Client::Convert.
absl::Status StreamGenerate(const Client& client, grpc::ClientContext& context,
                            const v1::GenerateRequest& request,
                            const std::function<void(v1::GenerateEvent&)>& take);

// The same with progress on a terminal. `show` gets each piece of text at once. `cancel`, when not
// null, is looked at every 50 ms and ends the call when true (the status is then CANCELLED).
absl::StatusOr<Answer> Generate(const Client& client, const v1::GenerateRequest& request,
                                const std::function<void(std::string_view)>& show,
                                const std::atomic<bool>* cancel = nullptr);

// {"text", "finish_reason", "stop_string", "tokens", "usage", "timing", "seed", "worker"}.
nlohmann::ordered_json AnswerToJson(const Answer& answer);

}  // namespace lexico::cli

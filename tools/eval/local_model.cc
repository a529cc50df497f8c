#include "tools/eval/local_model.h"

#include <utility>

#include "absl/synchronization/notification.h"
#include "proto/base/clock.h"
#include "proto/base/status.h"
#include "worker/model/model_rank.h"

namespace lexico::eval {

absl::StatusOr<std::unique_ptr<LocalModel>> LocalModel::Load(const LocalModelOptions& options) {
  auto model = std::unique_ptr<LocalModel>(new LocalModel);
  LEXICO_ASSIGN_OR_RETURN(const kernels::Stream stream,
                          kernels::Stream::Open(options.device, options.threads));
  const std::string& dir = options.model_dir;
  LEXICO_ASSIGN_OR_RETURN(model->tokenizer_, worker::Tokenizer::Load(dir + "/tokenizer.json"));
  LEXICO_ASSIGN_OR_RETURN(const auto chat_template,
                          worker::ChatTemplate::Load(dir + "/tokenizer_config.json"));
  LEXICO_ASSIGN_OR_RETURN(model->pieces_, chat_template->turn_pieces());
  std::string path = options.dictionary;
  if (path.empty()) {
    LEXICO_ASSIGN_OR_RETURN(path, worker::FindDefaultDictionary(dir));
  }
  LEXICO_ASSIGN_OR_RETURN(auto ranks, worker::LoadModelRanks(dir, path, {&stream, 1}));
  worker::EngineOptions engine_options;
  engine_options.kv_memory_bytes = options.kv_memory_bytes;
  engine_options.tokenizer = model->tokenizer_->fingerprint();
  LEXICO_ASSIGN_OR_RETURN(
      model->engine_, worker::Engine::Create(engine_options, std::move(ranks), base::Clock::Real(),
                                             &model->metrics_));
  return model;
}

absl::StatusOr<std::vector<int32_t>> LocalModel::DocumentIds(const std::string& text) const {
  const worker::EncodeOptions ours{.add_special_tokens = false, .parse_special = true};
  const worker::EncodeOptions theirs{.add_special_tokens = false, .parse_special = false};
  LEXICO_ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer_->Encode(pieces_.begin, ours));
  LEXICO_ASSIGN_OR_RETURN(const std::vector<int32_t> document, tokenizer_->Encode(text, theirs));
  ids.insert(ids.end(), document.begin(), document.end());
  return ids;
}

absl::StatusOr<std::vector<int32_t>> LocalModel::QuestionIds(const std::string& question) const {
  const worker::EncodeOptions ours{.add_special_tokens = false, .parse_special = true};
  const worker::EncodeOptions theirs{.add_special_tokens = false, .parse_special = false};
  LEXICO_ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer_->Encode("\n\n" + question, theirs));
  LEXICO_ASSIGN_OR_RETURN(const std::vector<int32_t> end,
                          tokenizer_->Encode(pieces_.user_end, ours));
  ids.insert(ids.end(), end.begin(), end.end());
  return ids;
}

absl::StatusOr<worker::CallResult> LocalModel::Append(const std::string& session,
                                                      std::vector<int32_t> ids) {
  absl::Notification done;
  absl::StatusOr<worker::CallResult> result;
  worker::CallCallbacks callbacks;
  callbacks.on_finished = [&](absl::StatusOr<worker::CallResult> finished) {
    result = std::move(finished);
    done.Notify();
  };
  LEXICO_RETURN_IF_ERROR(
      engine_->Append({.session_id = session, .ids = std::move(ids)}, std::move(callbacks))
          .status());
  done.WaitForNotification();
  return result;
}

absl::StatusOr<LocalModel::Answer> LocalModel::Ask(const std::string& session,
                                                   std::vector<int32_t> prompt_ids,
                                                   int64_t max_new_tokens, bool ignore_end_tokens) {
  absl::Notification done;
  absl::StatusOr<worker::CallResult> result;
  Answer answer;
  worker::CallCallbacks callbacks;
  callbacks.on_token = [&](const worker::GeneratedToken& token) {
    if (!token.is_end) answer.ids.push_back(token.sampled.id);
    return worker::TokenVerdict::kContinue;
  };
  callbacks.on_finished = [&](absl::StatusOr<worker::CallResult> finished) {
    result = std::move(finished);
    done.Notify();
  };
  worker::GenerateRequest request;
  request.session_id = session;
  request.prompt_ids = std::move(prompt_ids);
  request.max_new_tokens = max_new_tokens;
  request.ignore_end_tokens = ignore_end_tokens;
  for (const int32_t id : config().eos_ids) request.eos_ids.push_back(id);
  LEXICO_RETURN_IF_ERROR(engine_->Generate(std::move(request), std::move(callbacks)).status());
  done.WaitForNotification();
  LEXICO_ASSIGN_OR_RETURN(answer.result, std::move(result));
  answer.text = tokenizer_->Decode(answer.ids, /*skip_special=*/true);
  return answer;
}

}  // namespace lexico::eval

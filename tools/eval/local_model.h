// A model folder with everything that turns text into answers in this process: tokenizer, chat
// template, weights, dictionaries and an engine. What a worker has, without its service.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/base/metrics.h"
#include "worker/engine/engine.h"
#include "worker/tokenizer/chat_template.h"
#include "worker/tokenizer/tokenizer.h"

namespace lexico::eval {

struct LocalModelOptions {
  std::string model_dir;
  std::string dictionary;  // empty: the model folder's default
  size_t kv_memory_bytes = size_t{2} << 30;
  std::string device = "cpu";  // as Stream::Open
  int threads = 0;             // 0: all
};

// One thread uses it.
class LocalModel {
 public:
  static absl::StatusOr<std::unique_ptr<LocalModel>> Load(const LocalModelOptions& options);

  worker::Engine& engine() { return *engine_; }
  const worker::Tokenizer& tokenizer() const { return *tokenizer_; }
  const worker::ModelConfig& config() const { return engine_->transformer().config(); }

  // Ids of a conversation's beginning with an open user turn: the template's begin, then `text`.
  absl::StatusOr<std::vector<int32_t>> DocumentIds(const std::string& text) const;
  // Ids that end the open turn with a question.
  absl::StatusOr<std::vector<int32_t>> QuestionIds(const std::string& question) const;

  // Blocking forms of the engine's calls.
  absl::StatusOr<worker::CallResult> Append(const std::string& session, std::vector<int32_t> ids);
  struct Answer {
    std::string text;
    std::vector<int32_t> ids;
    worker::CallResult result;
  };
  // Greedy.
  absl::StatusOr<Answer> Ask(const std::string& session, std::vector<int32_t> prompt_ids,
                             int64_t max_new_tokens, bool ignore_end_tokens = false);

 private:
  LocalModel() : metrics_("eval") {}

  base::Metrics metrics_;
  std::shared_ptr<const worker::Tokenizer> tokenizer_;
  worker::TurnPieces pieces_;
  std::unique_ptr<worker::Engine> engine_;
};

}  // namespace lexico::eval

// Which tokens a training runs through the model: windows of its text, and of text held out.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/train_dictionary/text.h"
#include "worker/model/transformer.h"
#include "worker/tokenizer/tokenizer.h"

namespace lexico::train_dictionary {

struct Model {
  std::shared_ptr<const worker::Tokenizer> tokenizer;
  std::unique_ptr<const worker::Transformer> transformer;

  const worker::ModelConfig& config() const { return transformer->config(); }
};

struct Texts {
  Text text;
  std::optional<Text> held_out;  // none: the last tenth of `text`

  static absl::StatusOr<Texts> Open(const std::vector<std::string>& paths,
                                    const std::string& held_out_path);
  // The first bytes of `text`, which are trained on.
  int64_t train_bytes() const;
  const Text& measured() const { return held_out.has_value() ? *held_out : text; }
};

using Ids = std::vector<int32_t>;

int64_t TokensOf(const std::vector<Ids>& windows);

struct Windows {
  std::vector<Ids> train;
  std::vector<Ids> held_out;  // each from position 0
  int64_t n_positions = 0;    // served
};

struct WindowOptions {
  int64_t n_positions = 0;    // 0: the model's, or what the held-out text allows
  int64_t window_tokens = 0;  // of train; no more than n_positions are taken
  int64_t n_samples = 0;      // vectors of a dictionary that will be chosen
};

// A held-out part of fewer tokens says nothing.
inline constexpr int64_t kPositionsMin = 64;

// Windows spread evenly over the texts, each behind the model's begin-of-text token; of train about
// twice as many vectors as will be chosen, if the text has them. InvalidArgument: the held-out text
// has fewer tokens than n_positions, or ids that the model has not.
absl::StatusOr<Windows> ReadWindows(const WindowOptions& options, const Texts& texts,
                                    const Model& model);

}  // namespace lexico::train_dictionary

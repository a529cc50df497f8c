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

// A held-out part of fewer tokens says nothing.
inline constexpr int64_t kPositionsMin = 64;

struct HeldOut {
  std::vector<Ids> windows;  // each from position 0
  int64_t n_positions = 0;   // served: what was asked for, or else what the model or the text has
};

// Windows of n_positions (0: the model's, or what the text has), each behind the model's
// begin-of-text token. InvalidArgument: the text has fewer tokens, or ids that the model has not.
absl::StatusOr<HeldOut> ReadHeldOut(int64_t n_positions, const Texts& texts, const Model& model);

// Windows to train on, spread evenly over the text and read when they are asked for, in an order
// that is a random choice of the whole text wherever it begins.
class TrainWindows {
 public:
  struct Options {
    int64_t n_tokens = 0;     // of a window; fewer where its part of the text ends
    int64_t n_windows = 0;    // that will be read; a text that has fewer gives them again
    int64_t n_positions = 0;  // among which a window stands
    uint64_t seed = 0;
  };
  // `texts` and `model` must outlive it.
  TrainWindows(const Options& options, const Texts& texts, const Model& model);

  struct Window {
    Ids ids;  // empty where the text has none
    int64_t first_position = 0;
  };
  // The index-th, 0 or more: the same text as `n_different` windows before, and then elsewhere
  // among the positions. Errors as ReadHeldOut; Unavailable: the text has changed.
  absl::StatusOr<Window> Read(int64_t index) const;
  int64_t n_tokens_max() const { return options_.n_tokens; }
  int64_t n_different() const { return std::ssize(order_); }

 private:
  Options options_;
  const Texts& texts_;
  const Model& model_;
  std::vector<int64_t> order_;  // which part of the text is the i-th window
};

}  // namespace lexico::train_dictionary

#include "tools/train_dictionary/windows.h"

#include <fmt/format.h>

#include <algorithm>

#include "absl/status/status.h"
#include "proto/base/status.h"

namespace lexico::train_dictionary {
namespace {

// One part in so many of the text is held out.
constexpr int64_t kHeldOutPart = 10;
// Of text to judge by: several windows where few positions are served, so that no single document
// decides.
constexpr int64_t kHeldOutTokens = 32768;
// Windows have about twice the vectors that are kept, so that neighbours are rarely both.
constexpr int64_t kVectorsPerSample = 2;
// Of prose in English; only decides into how many windows a short text is cut.
constexpr int64_t kBytesPerToken = 4;

absl::StatusOr<Ids> ReadIds(const Text& text, int64_t begin, int64_t end, int64_t n,
                            const Model& model) {
  const std::optional<int32_t> bos = model.config().bos_id;
  LEXICO_ASSIGN_OR_RETURN(
      Ids ids, text.ReadWindow(begin, end, n - (bos.has_value() ? 1 : 0), *model.tokenizer));
  if (bos.has_value() && !ids.empty()) ids.insert(ids.begin(), *bos);
  for (const int32_t id : ids) {
    if (id >= 0 && id < model.config().vocab_size) continue;
    return absl::InvalidArgumentError(
        fmt::format("the tokenizer gave id {}, the model's vocabulary has {}; they do not belong "
                    "together",
                    id, model.config().vocab_size));
  }
  return ids;
}

// Windows of up to `length` tokens, n of them spread evenly over bytes begin .. end - 1.
absl::Status AddWindows(const Text& text, int64_t begin, int64_t end, int64_t n, int64_t length,
                        const Model& model, std::vector<Ids>* windows) {
  const int64_t bytes = end - begin;
  for (int64_t w = 0; w < n; ++w) {
    LEXICO_ASSIGN_OR_RETURN(
        Ids ids, ReadIds(text, begin + bytes * w / n, begin + bytes * (w + 1) / n, length, model));
    if (!ids.empty()) windows->push_back(std::move(ids));
  }
  return absl::OkStatus();
}

// Decides n_positions: what is asked for, or what the held-out text has.
absl::Status ReadHeldOut(const WindowOptions& options, const Texts& texts, const Model& model,
                         Windows* windows) {
  const Text& text = texts.measured();
  const int64_t begin = texts.held_out.has_value() ? 0 : texts.train_bytes();
  const int64_t asked =
      options.n_positions > 0 ? options.n_positions : model.config().max_positions;
  LEXICO_ASSIGN_OR_RETURN(const Ids ids, ReadIds(text, begin, text.bytes(), asked, model));
  const auto n = static_cast<int64_t>(ids.size());
  const int64_t least = options.n_positions > 0 ? options.n_positions : kPositionsMin;
  if (n < least) {
    return absl::InvalidArgumentError(fmt::format(
        "the text is too short: {} has {} tokens, {} are needed; give more text{}",
        texts.held_out.has_value() ? "what is held out" : "its last tenth, which is held out,", n,
        least, options.n_positions > 0 ? fmt::format(", or --tokens {} at most", n) : ""));
  }
  windows->n_positions = n;
  const int64_t n_wanted = std::max<int64_t>(1, kHeldOutTokens / n);
  const int64_t n_there = std::max<int64_t>(1, (text.bytes() - begin) / (n * kBytesPerToken * 2));
  return AddWindows(text, begin, text.bytes(), std::min(n_wanted, n_there), n, model,
                    &windows->held_out);
}

}  // namespace

absl::StatusOr<Texts> Texts::Open(const std::vector<std::string>& paths,
                                  const std::string& held_out_path) {
  LEXICO_ASSIGN_OR_RETURN(Text text, Text::Open(paths));
  Texts texts{.text = std::move(text), .held_out = std::nullopt};
  if (held_out_path.empty()) return texts;
  LEXICO_ASSIGN_OR_RETURN(texts.held_out, Text::Open({held_out_path}));
  return texts;
}

int64_t Texts::train_bytes() const {
  return held_out.has_value() ? text.bytes() : text.bytes() - text.bytes() / kHeldOutPart;
}

int64_t TokensOf(const std::vector<Ids>& windows) {
  int64_t n = 0;
  for (const Ids& ids : windows) n += static_cast<int64_t>(ids.size());
  return n;
}

absl::StatusOr<Windows> ReadWindows(const WindowOptions& options, const Texts& texts,
                                    const Model& model) {
  Windows windows;
  LEXICO_RETURN_IF_ERROR(ReadHeldOut(options, texts, model, &windows));
  const int64_t length = std::min(windows.n_positions, options.window_tokens);
  const int64_t n_tokens_wanted =
      kVectorsPerSample * options.n_samples / model.config().n_kv_heads + 1;
  const int64_t n_wanted = (n_tokens_wanted + length - 1) / length;
  const int64_t n_there = texts.train_bytes() / (length * kBytesPerToken) + 1;
  LEXICO_RETURN_IF_ERROR(AddWindows(texts.text, 0, texts.train_bytes(), std::min(n_wanted, n_there),
                                    length, model, &windows.train));
  return windows;
}

}  // namespace lexico::train_dictionary

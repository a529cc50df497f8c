#include "tools/train_dictionary/windows.h"

#include <fmt/format.h>

#include <algorithm>

#include "absl/status/status.h"
#include "proto/base/status.h"
#include "tools/train_dictionary/vector_set.h"

namespace lexico::train_dictionary {
namespace {

// One part in so many of the text is held out.
constexpr int64_t kHeldOutPart = 10;
// Of text to judge by: several windows where few positions are served, so that no single document
// decides.
constexpr int64_t kHeldOutTokens = 32768;
// Of prose in English; only decides into how many windows a short text is cut.
constexpr int64_t kBytesPerToken = 4;
// Streams of random numbers (vector_set.h): the order of windows, and where they stand.
constexpr uint64_t kWindowStream = uint64_t{2} << 60;
constexpr uint64_t kPositionStream = uint64_t{3} << 60;

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

absl::StatusOr<HeldOut> ReadHeldOut(int64_t n_positions, const Texts& texts, const Model& model) {
  const Text& text = texts.measured();
  const int64_t begin = texts.held_out.has_value() ? 0 : texts.train_bytes();
  const int64_t asked = n_positions > 0 ? n_positions : model.config().max_positions;
  LEXICO_ASSIGN_OR_RETURN(const Ids ids, ReadIds(text, begin, text.bytes(), asked, model));
  const auto n = static_cast<int64_t>(ids.size());
  const int64_t least = n_positions > 0 ? n_positions : kPositionsMin;
  if (n < least) {
    return absl::InvalidArgumentError(fmt::format(
        "the text is too short: {} has {} tokens, {} are needed; give more text{}",
        texts.held_out.has_value() ? "what is held out" : "its last tenth, which is held out,", n,
        least, n_positions > 0 ? fmt::format(", or --tokens {} at most", n) : ""));
  }
  HeldOut held_out{.windows = {}, .n_positions = n};
  const int64_t bytes = text.bytes() - begin;
  const int64_t n_there = std::max<int64_t>(1, bytes / (n * kBytesPerToken * 2));
  const int64_t n_windows = std::min(std::max<int64_t>(1, kHeldOutTokens / n), n_there);
  for (int64_t w = 0; w < n_windows; ++w) {
    LEXICO_ASSIGN_OR_RETURN(Ids window, ReadIds(text, begin + bytes * w / n_windows,
                                                begin + bytes * (w + 1) / n_windows, n, model));
    if (!window.empty()) held_out.windows.push_back(std::move(window));
  }
  return held_out;
}

TrainWindows::TrainWindows(const Options& options, const Texts& texts, const Model& model)
    : options_(options), texts_(texts), model_(model) {
  const int64_t n_there = texts.train_bytes() / (options.n_tokens * kBytesPerToken) + 1;
  const int64_t n = std::min(options.n_windows, n_there);
  order_ = RandomOrder(n, n, options.seed, kWindowStream);
}

absl::StatusOr<TrainWindows::Window> TrainWindows::Read(int64_t index) const {
  const int64_t part = order_[index % n_different()];
  const int64_t bytes = texts_.train_bytes();
  Window window;
  LEXICO_ASSIGN_OR_RETURN(window.ids,
                          ReadIds(texts_.text, bytes * part / n_different(),
                                  bytes * (part + 1) / n_different(), options_.n_tokens, model_));
  const auto n_starts = options_.n_positions - std::ssize(window.ids) + 1;
  window.first_position = static_cast<int64_t>(RandomAt(options_.seed, kPositionStream, index) %
                                               static_cast<uint64_t>(n_starts));
  return window;
}

}  // namespace lexico::train_dictionary

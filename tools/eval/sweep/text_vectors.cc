#include "tools/eval/sweep/text_vectors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "proto/base/status.h"
#include "tools/train_dictionary/gather.h"

namespace lexico::eval {
namespace {

absl::Status Check(const TextVectorsOptions& options, const worker::ModelConfig& config,
                   int64_t n_ids) {
  if (options.n_tokens > config.max_positions) {
    return absl::InvalidArgumentError(
        fmt::format("runs of {} tokens are longer than the model's {} positions; lower --tokens",
                    options.n_tokens, config.max_positions));
  }
  const int64_t needed = options.n_tokens * options.n_documents;
  if (n_ids >= needed) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("the text has {} tokens, {} documents of {} need {}; give a longer text, or "
                  "lower --documents "
                  "or --tokens",
                  n_ids, options.n_documents, options.n_tokens, needed));
}

// n_kept of `rows`, of dictionary number `dictionary` of a run of the text, to `vectors`.
absl::Status Append(const std::vector<float>& rows, int64_t n_kept,
                    const worker::ModelConfig& config, int dictionary,
                    std::vector<float>* vectors) {
  const int64_t n_rows = std::ssize(rows) / config.head_dim;
  for (int64_t i = 0; i < n_kept; ++i) {
    const float* row = rows.data() + n_rows * i / n_kept * config.head_dim;
    if (!std::all_of(row, row + config.head_dim, [](float x) { return std::isfinite(x); })) {
      return absl::InvalidArgumentError(fmt::format(
          "layer {}: a {} that is not finite, at position {}", dictionary / 2,
          dictionary % 2 == 0 ? "key" : "value", n_rows * i / n_kept / config.n_kv_heads));
    }
    vectors->insert(vectors->end(), row, row + config.head_dim);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<std::vector<float>>> TextVectors(const TextVectorsOptions& options,
                                                            const worker::Transformer& model,
                                                            std::span<const int32_t> ids,
                                                            const kernels::Stream& stream) {
  const worker::ModelConfig& config = model.config();
  const auto n_ids = static_cast<int64_t>(ids.size());
  LEXICO_RETURN_IF_ERROR(Check(options, config, n_ids));
  LEXICO_ASSIGN_OR_RETURN(const auto gatherer,
                          train_dictionary::Gatherer::Create(model, options.n_tokens, stream));
  const int64_t n_rows = options.n_tokens * config.n_kv_heads;
  const int64_t n_kept =
      std::min(n_rows, std::max<int64_t>(1, options.n_vectors / options.n_documents));
  std::vector<std::vector<float>> vectors(2 * static_cast<size_t>(config.n_layers));
  for (int document = 0; document < options.n_documents; ++document) {
    const int64_t first = n_ids / options.n_documents * document;
    absl::Status status;
    gatherer->Run(ids.subspan(first, options.n_tokens), 0,
                  [&](int dictionary, kernels::MutableTensorView rows) {
                    std::vector<float> host(rows.size());
                    stream.Download(host.data(), rows.as<float>(), rows.size_bytes());
                    status.Update(Append(host, n_kept, config, dictionary, &vectors[dictionary]));
                  });
    LEXICO_RETURN_IF_ERROR(status);
  }
  return vectors;
}

}  // namespace lexico::eval

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
    LEXICO_RETURN_IF_ERROR(gatherer->Run(
        ids.subspan(first, options.n_tokens), 0, [&](int dictionary, const float* rows) {
          for (int64_t i = 0; i < n_kept; ++i) {
            const float* row = rows + n_rows * i / n_kept * config.head_dim;
            if (!std::all_of(row, row + config.head_dim,
                             [](float x) { return std::isfinite(x); })) {
              return absl::InvalidArgumentError(fmt::format(
                  "layer {}: a {} that is not finite, at position {}", dictionary / 2,
                  dictionary % 2 == 0 ? "key" : "value", n_rows * i / n_kept / config.n_kv_heads));
            }
            vectors[dictionary].insert(vectors[dictionary].end(), row, row + config.head_dim);
          }
          return absl::OkStatus();
        }));
  }
  return vectors;
}

}  // namespace lexico::eval

#include "tools/eval/sweep/universality.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "kernels/api/omp_encode.h"
#include "proto/base/profile.h"
#include "proto/base/status.h"

namespace lexico::eval {
namespace {

double MeanError(const std::vector<float>& x, const kernels::PreparedDictionary& dictionary,
                 int64_t sparsity, const kernels::Stream& stream) {
  const int64_t n = static_cast<int64_t>(x.size()) / dictionary.head_dim();
  std::vector<uint16_t> atoms(n * sparsity);
  std::vector<uint8_t> coefs(n * sparsity);
  std::vector<float> errors(n);
  kernels::OmpEncode({.x = {x.data(), {n, dictionary.head_dim()}},
                      .dictionary = &dictionary,
                      .sparsity = static_cast<int>(sparsity),
                      .atoms = {atoms.data(), {n, sparsity}},
                      .coefs = {coefs.data(), {n, sparsity}},
                      .rel_error = {errors.data(), {n}}},
                     stream);
  return std::accumulate(errors.begin(), errors.end(), 0.0) / static_cast<double>(n);
}

absl::Status CheckSparsities(const UniversalityOptions& options, int head_dim,
                             const std::vector<NamedDictionary>& dictionaries) {
  for (const NamedDictionary& named : dictionaries) {
    const int n_atoms = named.dictionary->n_atoms();
    const int sparsity_max = base::SparsityMax({.head_dim = head_dim, .n_atoms = n_atoms});
    for (const int64_t sparsity : options.sparsities) {
      if (sparsity >= 1 && sparsity <= sparsity_max) continue;
      return absl::InvalidArgumentError(
          fmt::format("a sparsity of {}; {} atoms of {} numbers allow 1 to {}", sparsity, n_atoms,
                      head_dim, sparsity_max));
    }
  }
  return absl::OkStatus();
}

struct Errors {
  double mean[2] = {0, 0};  // K, V
  double worst[2] = {0, 0};
};

Errors ErrorsOf(const std::vector<std::vector<float>>& vectors,
                const worker::ModelDictionary& dictionary, int64_t sparsity,
                const kernels::Stream& stream) {
  Errors errors;
  const size_t n_layers = vectors.size() / 2;
  for (size_t i = 0; i < vectors.size(); ++i) {
    const worker::DictionaryPair& pair = dictionary.layer(static_cast<int>(i / 2));
    const double error = MeanError(vectors[i], i % 2 == 0 ? *pair.k : *pair.v, sparsity, stream);
    errors.mean[i % 2] += error / static_cast<double>(n_layers);
    errors.worst[i % 2] = std::max(errors.worst[i % 2], error);
  }
  return errors;
}

}  // namespace

absl::StatusOr<ResultTable> SweepUniversality(const UniversalityOptions& options,
                                              const worker::Transformer& model,
                                              const std::vector<NamedDictionary>& dictionaries,
                                              const std::vector<NamedText>& texts,
                                              const kernels::Stream& stream) {
  LEXICO_RETURN_IF_ERROR(CheckSparsities(options, model.config().head_dim, dictionaries));
  ResultTable table("universality", {{"text"},
                                     {"dictionary"},
                                     {"n_atoms"},
                                     {"sparsity"},
                                     {"error_k", 4},
                                     {"error_v", 4},
                                     {"worst_layer_k", 4},
                                     {"worst_layer_v", 4}});
  table.SetFact("tokens", options.vectors.n_tokens);
  table.SetFact("documents", int64_t{options.vectors.n_documents});
  table.SetFact("vectors_a_dictionary", options.vectors.n_vectors);
  for (const NamedText& text : texts) {
    const auto vectors = TextVectors(options.vectors, model, text.ids, stream);
    if (!vectors.ok()) return base::Annotate(vectors.status(), text.name);
    for (const NamedDictionary& named : dictionaries) {
      for (const int64_t sparsity : options.sparsities) {
        const Errors errors = ErrorsOf(*vectors, *named.dictionary, sparsity, stream);
        table.Add({text.name, named.name, int64_t{named.dictionary->n_atoms()}, sparsity,
                   errors.mean[0], errors.mean[1], errors.worst[0], errors.worst[1]});
      }
    }
  }
  return table;
}

}  // namespace lexico::eval

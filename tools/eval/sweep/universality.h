// Whether a dictionary codes texts that it was not trained on: every dictionary on every text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/eval/sweep/result_table.h"
#include "tools/eval/sweep/text_vectors.h"
#include "worker/model/dictionary_file.h"

namespace lexico::eval {

struct NamedDictionary {
  std::string name;
  std::shared_ptr<const worker::ModelDictionary> dictionary;
};

struct NamedText {
  std::string name;
  std::vector<int32_t> ids;
};

struct UniversalityOptions {
  std::vector<int64_t> sparsities = {8, 16};
  TextVectorsOptions vectors;
};

// Columns: text, dictionary, n_atoms, sparsity, error_k, error_v (means over layers and vectors of
// ||x - x^|| / ||x||), worst_layer_k, worst_layer_v (the largest mean of a layer). Errors: those of
// TextVectors, with the text's name; InvalidArgument for a sparsity that a dictionary does not
// allow.
absl::StatusOr<ResultTable> SweepUniversality(const UniversalityOptions& options,
                                              const worker::Transformer& model,
                                              const std::vector<NamedDictionary>& dictionaries,
                                              const std::vector<NamedText>& texts,
                                              const kernels::Stream& stream);

}  // namespace lexico::eval

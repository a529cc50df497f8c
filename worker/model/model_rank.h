// A model with its dictionaries on the devices that compute it: one rank, or several that have a
// share of the weights each, and all dictionaries (worker/model/model_shard.h).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/api/stream.h"
#include "worker/model/dictionary_file.h"
#include "worker/model/transformer.h"

namespace lexico::worker {

struct ModelRank {
  std::shared_ptr<const Transformer> transformer;
  std::shared_ptr<const ModelDictionary> dictionary;  // null: profile dense only
  kernels::Stream stream;
};

// Loads both on every stream, all ranks at once. `dictionary_path` empty: no dictionary. Errors:
// Transformer::LoadRanks, ModelDictionary::Load.
absl::StatusOr<std::vector<ModelRank>> LoadModelRanks(const std::string& model_dir,
                                                      const std::string& dictionary_path,
                                                      std::span<const kernels::Stream> streams);

}  // namespace lexico::worker

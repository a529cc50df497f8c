#include "worker/model/model_rank.h"

#include <utility>

#include "kernels/api/rank_team.h"
#include "proto/base/status.h"

namespace lexico::worker {

absl::StatusOr<std::vector<ModelRank>> LoadModelRanks(const std::string& model_dir,
                                                      const std::string& dictionary_path,
                                                      std::span<const kernels::Stream> streams) {
  LEXICO_ASSIGN_OR_RETURN(const auto transformers, Transformer::LoadRanks(model_dir, streams));
  std::vector<ModelRank> ranks;
  for (size_t rank = 0; rank < streams.size(); ++rank) {
    ranks.push_back({.transformer = transformers[rank], .stream = streams[rank]});
  }
  if (dictionary_path.empty()) return ranks;
  std::vector<absl::Status> loaded(ranks.size());
  kernels::RankTeam(static_cast<int>(ranks.size())).Run([&](int rank) {
    ModelRank& own = ranks[rank];
    auto dictionary = ModelDictionary::Load(dictionary_path, own.transformer->config(),
                                            own.transformer->fingerprint(), own.stream);
    loaded[rank] = dictionary.status();
    if (dictionary.ok()) own.dictionary = *std::move(dictionary);
  });
  for (const absl::Status& status : loaded) LEXICO_RETURN_IF_ERROR(status);
  return ranks;
}

}  // namespace lexico::worker

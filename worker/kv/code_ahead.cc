#include "worker/kv/code_ahead.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "kernels/api/elementwise.h"
#include "proto/base/check.h"
#include "proto/base/status.h"
#include "worker/kv/page_shards.h"

namespace lexico::worker {
namespace {

// One layer's oldest rows of some sessions of one layout.
class Batch {
 public:
  Batch(int layer, std::span<SessionKv* const> sessions) : layer_(layer), sessions_(sessions) {}

  absl::Status Code(std::span<const CoderOfRank> coders, kernels::RankTeam& team) const {
    std::vector<absl::Status> coded(coders.size());
    std::vector<std::vector<PageError>> errors(coders.size(),
                                               std::vector<PageError>(sessions_.size()));
    team.Run([&](int rank) { coded[rank] = CodeOnRank(rank, coders[rank], errors[rank]); });
    for (const absl::Status& status : coded) LEXICO_RETURN_IF_ERROR(status);
    std::vector<PageError> whole(sessions_.size());
    JoinErrors(errors, whole);
    for (size_t i = 0; i < whole.size(); ++i) sessions_[i]->SetCoded(layer_, whole[i]);
    return absl::OkStatus();
  }

 private:
  absl::Status CodeOnRank(int rank, const CoderOfRank& coder, std::span<PageError> errors) const {
    const KvLayout& layout = sessions_[0]->layout();
    const int64_t n_values = layout.seal_tokens() * layout.shape.row_dim();
    const auto n = std::ssize(sessions_);
    float* const rows = coder.scratch->Rows(2 * n * n_values, *coder.stream);
    std::vector<uint8_t*> blocks;
    for (int64_t i = 0; i < n; ++i) {
      const SessionKv& session = *sessions_[i];
      LEXICO_CHECK(session.ahead_block() != nullptr);  // ReserveRow has taken it
      blocks.push_back(session.pool().At(session.ahead_block(), rank));
      for (const bool value : {false, true}) {
        kernels::Convert(
            {session.window_row(layer_, value, 0, rank), layout.shape.cache_type, {n_values}},
            {rows + ((value ? n : 0) + i) * n_values, {n_values}}, *coder.stream);
      }
    }
    const LayerDictionaries none;
    return EncodePages(layout, layout.profile.has_atoms() ? coder.dictionaries[layer_] : none, rows,
                       rows + n * n_values, layer_, blocks, errors, *coder.stream, *coder.scratch);
  }

  const int layer_;
  const std::span<SessionKv* const> sessions_;
};

void SealFull(std::span<SessionKv* const> sessions, std::span<const CoderOfRank> coders,
              kernels::RankTeam& team) {
  std::vector<SessionKv*> full;
  for (SessionKv* session : sessions) {
    if (session->is_full()) full.push_back(session);
  }
  if (full.empty()) return;
  team.Run([&](int rank) {
    for (const SessionKv* session : full) session->ShiftWindow(rank, *coders[rank].stream);
  });
  for (SessionKv* session : full) session->Seal();
}

}  // namespace

CodedAhead CodeAhead(std::span<SessionKv* const> sessions, int64_t step, int64_t batch_max,
                     std::span<const CoderOfRank> coders, kernels::RankTeam& team) {
  CodedAhead result{.statuses = std::vector<absl::Status>(sessions.size())};
  // By profile and layer: which sessions.
  std::map<std::pair<std::string, int>, std::vector<size_t>> due;
  for (size_t i = 0; i < sessions.size(); ++i) {
    for (const int layer : sessions[i]->LayersDue(step)) {
      due[{sessions[i]->layout().profile.name, layer}].push_back(i);
    }
  }
  const auto code = [&](int layer, std::span<const size_t> members) {
    std::vector<SessionKv*> batch;
    for (const size_t i : members) batch.push_back(sessions[i]);
    const absl::Status coded = Batch(layer, batch).Code(coders, team);
    const KvLayout& layout = batch[0]->layout();
    if (coded.ok() && !layout.profile.is_dense()) {
      result.n_vectors +=
          std::ssize(batch) * 2 * layout.seal_tokens() * layout.shape.model_kv_heads();
    }
    return coded;
  };
  for (const auto& [key, members] : due) {
    for (size_t first = 0; first < members.size(); first += batch_max) {
      const auto batch =
          std::span(members).subspan(first, std::min<size_t>(batch_max, members.size() - first));
      if (code(key.second, batch).ok()) continue;
      // Whose rows it was: each alone.
      for (const size_t i : batch) result.statuses[i].Update(code(key.second, {{i}}));
    }
  }
  std::vector<SessionKv*> coded;
  for (size_t i = 0; i < sessions.size(); ++i) {
    if (result.statuses[i].ok()) coded.push_back(sessions[i]);
  }
  SealFull(coded, coders, team);
  return result;
}

}  // namespace lexico::worker

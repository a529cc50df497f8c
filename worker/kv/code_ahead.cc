#include "worker/kv/code_ahead.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "kernels/api/elementwise.h"
#include "proto/base/check.h"

namespace lexico::worker {
namespace {

// One layer's oldest rows of some sessions of one layout.
class Batch {
 public:
  Batch(int layer, std::span<const LayerDictionaries> dictionaries, const kernels::Stream& stream,
        CoderScratch& scratch)
      : layer_(layer), dictionaries_(dictionaries), stream_(stream), scratch_(scratch) {}

  absl::Status Code(std::span<SessionKv* const> sessions) const {
    const KvLayout& layout = sessions[0]->layout();
    const int64_t n_values = layout.seal_tokens() * layout.shape.row_dim();
    const auto n = std::ssize(sessions);
    float* const rows = scratch_.Rows(2 * n * n_values, stream_);
    std::vector<uint8_t*> blocks;
    for (int64_t i = 0; i < n; ++i) {
      LEXICO_CHECK(sessions[i]->ahead_block() != nullptr);  // ReserveRow has taken it
      blocks.push_back(sessions[i]->ahead_block());
      for (const bool value : {false, true}) {
        kernels::Convert(
            {sessions[i]->window_row(layer_, value, 0), layout.shape.cache_type, {n_values}},
            {rows + ((value ? n : 0) + i) * n_values, {n_values}}, stream_);
      }
    }
    const LayerDictionaries none;
    std::vector<PageError> errors(n);
    const absl::Status coded =
        EncodePages(layout, layout.profile.is_dense() ? none : dictionaries_[layer_], rows,
                    rows + n * n_values, layer_, blocks, errors, stream_, scratch_);
    if (!coded.ok()) return coded;
    for (int64_t i = 0; i < n; ++i) sessions[i]->SetCoded(layer_, errors[i]);
    return absl::OkStatus();
  }

 private:
  const int layer_;
  const std::span<const LayerDictionaries> dictionaries_;
  const kernels::Stream& stream_;
  CoderScratch& scratch_;
};

}  // namespace

CodedAhead CodeAhead(std::span<SessionKv* const> sessions, int64_t step,
                     std::span<const LayerDictionaries> dictionaries, int64_t batch_max,
                     const kernels::Stream& stream, CoderScratch& scratch) {
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
    const absl::Status coded = Batch(layer, dictionaries, stream, scratch).Code(batch);
    const KvLayout& layout = batch[0]->layout();
    if (coded.ok() && !layout.profile.is_dense()) {
      result.n_vectors += std::ssize(batch) * 2 * layout.seal_tokens() * layout.shape.n_kv_heads;
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
  for (size_t i = 0; i < sessions.size(); ++i) {
    if (result.statuses[i].ok()) sessions[i]->SealIfFull(stream);
  }
  return result;
}

}  // namespace lexico::worker

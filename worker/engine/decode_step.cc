#include "worker/engine/decode_step.h"

#include "proto/base/status.h"

namespace lexico::worker {

DecodeStep::DecodeStep(ForwardRanks* ranks) : ranks_(ranks) {
  for (int rank = 0; rank < ranks->size(); ++rank) {
    steps_.push_back(std::make_unique<DecodeRank>(&(*ranks)[rank]));
  }
}

absl::Status DecodeStep::Reserve(int64_t n, int64_t n_pages) {
  for (const auto& step : steps_) LEXICO_RETURN_IF_ERROR(step->Reserve(n, n_pages));
  return absl::OkStatus();
}

void DecodeStep::Run(std::span<SessionKv* const> sessions, std::span<const kernels::RowDraw> draws,
                     int n_top) {
  if (sessions.empty()) return;
  ranks_->Run([&](int rank) { steps_[rank]->Run(sessions, draws, n_top); });
  for (size_t i = 0; i < sessions.size(); ++i) {
    if (!non_finite(static_cast<int64_t>(i))) sessions[i]->CommitRow();
  }
}

std::optional<KvKind> DecodeStep::non_finite(int64_t i) const {
  for (const auto& step : steps_) {
    if (const auto bad = step->non_finite(i); bad.has_value()) return bad;
  }
  return std::nullopt;
}

}  // namespace lexico::worker

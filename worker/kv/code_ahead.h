// Codes, a few layers a decode step, the pages that windows will seal (session_kv.h).
//
// Sessions of one layout code the same layers in the same step, so one call codes all of them:
// coding few vectors takes as long as coding thousands on a GPU, where every pick of a pursuit
// waits for the one before (docs/performance.md "coding while decoding").
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/api/rank_team.h"
#include "kernels/api/stream.h"
#include "worker/kv/page_coder.h"
#include "worker/kv/session_kv.h"

namespace lexico::worker {

// What one rank codes its heads with.
struct CoderOfRank {
  std::span<const LayerDictionaries> dictionaries;  // [n_layers], not read without atoms
  const kernels::Stream* stream = nullptr;
  CoderScratch* scratch = nullptr;
};

struct CodedAhead {
  std::vector<absl::Status> statuses;  // [n_sessions]
  int64_t n_vectors = 0;               // coded, of coded profiles
};

// Codes what is due of each session at `step`, a number that counts steps, and seals full windows;
// at most `batch_max` pages go together. A session that fails (as EncodePages) stays valid, and
// ReserveRow will refuse to extend it; the others are coded. REQUIRES: every session is there once;
// a coder for every rank of the team.
CodedAhead CodeAhead(std::span<SessionKv* const> sessions, int64_t step, int64_t batch_max,
                     std::span<const CoderOfRank> coders, kernels::RankTeam& team);

}  // namespace lexico::worker

// Codes, a few layers a decode step, the pages that windows will seal (session_kv.h).
//
// Sessions of one layout code the same layers in the same step, so one call codes all of them:
// coding few vectors takes as long as coding thousands on a GPU, where every pick of a pursuit
// waits for the one before (docs/performance.md "coding while decoding").
//
// The rows of a step's pages are there before the step. So on a GPU they are coded beside it, by
// threads and on streams of the coder's own, which the step hardly feels: a pursuit leaves most of
// the GPU idle. On a CPU, where a step has all processors, they are coded behind it.
//
// Thread-compatible: the engine's thread.
#pragma once

#include <cstdint>
#include <span>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "kernels/api/rank_team.h"
#include "kernels/api/stream.h"
#include "worker/kv/page_coder.h"
#include "worker/kv/session_kv.h"

namespace lexico::worker {

// What one rank codes its heads with.
struct CoderOfRank {
  std::span<const LayerDictionaries> dictionaries;  // [n_layers], not read for dense layouts
  // Of the steps, and of the coder: the same one where it codes behind the steps.
  const kernels::Stream* stream = nullptr;
  const kernels::Stream* beside = nullptr;
  CoderScratch* scratch = nullptr;  // of `beside`
};

struct CodedAhead {
  std::vector<absl::Status> statuses;  // [n_sessions]
  int64_t n_vectors = 0;               // coded, of coded profiles
};

class AheadCoder {
 public:
  // One for every rank of the team, in order. All outlive the coder. With streams of its own it has
  // threads of its own too.
  AheadCoder(std::vector<CoderOfRank> coders, kernels::RankTeam* team);
  ~AheadCoder();
  AheadCoder(const AheadCoder&) = delete;
  AheadCoder& operator=(const AheadCoder&) = delete;

  // What is due of each session at `step`, a number that counts steps; at most `batch_max` pages go
  // together. REQUIRES: every session is there once, has reserved its row and not committed it;
  // no other Begin without Finish.
  void Begin(std::span<SessionKv* const> sessions, int64_t step, int64_t batch_max);

  // To be called when the rows are committed, or given up. Returns when all of it is coded, and
  // seals full windows. A session that fails (as EncodePages) stays valid, and ReserveRow will
  // refuse to extend it; the others are coded.
  CodedAhead Finish();

 private:
  // One layer's oldest rows of some sessions of one layout.
  struct Batch {
    int layer = 0;
    std::vector<size_t> members;  // of sessions_
    absl::Status status;
    std::vector<PageError> errors;  // [members]
  };
  bool is_beside() const { return background_.joinable(); }
  void Plan(int64_t step, int64_t batch_max);
  void CodeAll(kernels::RankTeam& team);
  void Code(Batch& batch, kernels::RankTeam& team) const;
  absl::Status CodeOnRank(const Batch& batch, int rank, std::span<PageError> errors) const;
  void SealFull(std::span<const absl::Status> statuses) const;
  void Background();

  const std::vector<CoderOfRank> coders_;
  kernels::RankTeam* const team_;

  // Of the step: the engine's thread writes them outside, the background's between Begin and
  // Finish.
  std::vector<SessionKv*> sessions_;
  std::vector<Batch> batches_;

  absl::Mutex mutex_;
  bool work_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread background_;  // the last member: it uses all others
};

}  // namespace lexico::worker

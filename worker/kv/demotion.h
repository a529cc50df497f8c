// Makes the pages of a session smaller, from their codes alone: those of a profile with fewer atoms
// (proto/base/demotion.h, docs/adr/0016-exact-demotion.md). The session is uniform before and
// after; in between it belongs to the demotion, a few pages at a time, so that whoever runs it can
// do other things between two slices.
//
//   demotion = Demotion::Begin(pool, coders, team, layout, &kv)     kv is taken
//   while (!demotion->done()) demotion->RunSlice(n)
//   kv = demotion->Finish()
//
// A page goes to a block of its new size and its old block is given back at once, so the memory of
// one slice is all that is needed on top. A page that others hold too (forks, snapshots on their
// way to the store) needs a block in any case: those are taken by Begin, so nothing fails later.
// Where the pool has no block at all, a page becomes smaller where it is; at the end such pages
// move to blocks of their size, a slab of the pool at a time through memory of the host, as far as
// slabs are theirs alone. What stays loses the end of its block, and is counted
// (Parts::spare_bytes).
//
// Pages that were coded ahead are dropped and will be coded again. Window, log and segments stay.
//
// Thread-compatible: run by the thread of the ops. All that is given to it outlives it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/api/rank_team.h"
#include "worker/kv/ahead_coder.h"
#include "worker/kv/session_kv.h"

namespace lexico::worker {

// The scope of a session after its demotion to `profile`.
store::ChainScope DemotedScope(const SessionKv& kv, const base::Profile& profile);

// Bytes of the pool that a demotion to `layout` would free, on all ranks, less the copies of shared
// pages; 0 where the pool has no room for those, or nowhere to begin.
int64_t BytesFreedBy(const PagePool& pool, const SessionKv& kv, const KvLayout& layout);

// The estimate for a demoted page of the mean error over its vectors: what was left out before and
// what is left out now are orthogonal.
float DemotedError(float before, float of_the_rest);

class Demotion {
 public:
  // `coders`: of every rank of the team, on the streams of the ops (CoderOfRank::stream is not
  // used); their scratch has room for 2 * slice pages. REQUIRES: CheckDemotion of the profiles, and
  // a session without reserved pages. ResourceExhausted, and *kv stays, where shared pages find no
  // blocks.
  static absl::StatusOr<std::unique_ptr<Demotion>> Begin(PagePool* pool,
                                                         std::span<const CoderOfRank> coders,
                                                         kernels::RankTeam* team,
                                                         const KvLayout& layout,
                                                         std::unique_ptr<SessionKv>* kv);
  ~Demotion();
  Demotion(const Demotion&) = delete;
  Demotion& operator=(const Demotion&) = delete;

  bool done() const { return next_ == n_pages(); }
  int64_t n_pages() const { return static_cast<int64_t>(parts_.page_blocks.size()); }
  // At most n more pages, of all layers. Waits for the ops.
  void RunSlice(int64_t n);
  // Of blocks given back less those taken, on all ranks.
  int64_t freed_bytes() const { return freed_bytes_; }
  // REQUIRES: done(). May be called once.
  std::unique_ptr<SessionKv> Finish();

 private:
  Demotion(PagePool* pool, std::span<const CoderOfRank> coders, kernels::RankTeam* team,
           const KvLayout& from, const KvLayout& to, store::ChainScope scope);
  // Where the next n pages go.
  std::vector<uint8_t*> TakeTargets(int64_t n);
  void DemoteLayer(int layer, std::span<uint8_t* const> targets);
  // Pages that became smaller where they were, to blocks of their size.
  void Repack();
  bool Move(std::span<const int64_t> pages);

  PagePool* const pool_;
  const std::vector<CoderOfRank> coders_;
  kernels::RankTeam* const team_;
  const KvLayout from_;
  const KvLayout to_;
  const store::ChainScope scope_;
  SessionKv::Parts parts_;            // its page_blocks: new ones up to next_, then old ones
  std::vector<bool> is_shared_;       // [n_pages]
  std::vector<uint8_t*> for_shared_;  // blocks that are left for shared pages
  std::vector<int64_t> in_place_;     // pages
  int64_t next_ = 0;
  int64_t freed_bytes_ = 0;
};

}  // namespace lexico::worker

#include "worker/kv/demotion.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "proto/base/check.h"
#include "proto/base/demotion.h"
#include "proto/base/options.h"
#include "worker/kv/page_coder.h"
#include "worker/kv/page_shards.h"

namespace lexico::worker {

store::ChainScope DemotedScope(const SessionKv& kv, const base::Profile& profile) {
  store::ChainScope scope = kv.scope();
  scope.profile = profile.name;
  if (kv.n_pages() == 0) return scope;  // no page and no row ever knew the profile before
  scope.demotions.push_back({.from = kv.scope().profile,
                             .n_sealed_tokens = static_cast<uint64_t>(kv.n_sealed_tokens()),
                             .n_tokens = static_cast<uint64_t>(kv.n_tokens())});
  return scope;
}

int64_t BytesFreedBy(const PagePool& pool, const SessionKv& kv, const KvLayout& layout) {
  const auto before = static_cast<int64_t>(BlockBytes(kv.layout().page_block_bytes()));
  const auto after = static_cast<int64_t>(BlockBytes(layout.page_block_bytes()));
  if (after >= before) return 0;
  const int64_t n_shared = pool.CountShared(kv.page_blocks());
  if (pool.FreeBlocks(layout.page_block_bytes(), /*from_spare=*/true) <= n_shared &&
      (n_shared > 0 || pool.SlabsFreedBy(kv.page_blocks()) == 0)) {
    return 0;
  }
  const int64_t bytes = (kv.n_pages() - n_shared) * (before - after) - n_shared * after;
  return std::max<int64_t>(bytes, 0) * pool.n_ranks();
}

float DemotedError(float before, float of_the_rest) {
  const double kept = std::max(0.0, 1 - static_cast<double>(before) * before);
  return static_cast<float>(std::sqrt(static_cast<double>(before) * before +
                                      static_cast<double>(of_the_rest) * of_the_rest * kept));
}

Demotion::Demotion(PagePool* pool, std::span<const CoderOfRank> coders, kernels::RankTeam* team,
                   const KvLayout& from, const KvLayout& to, store::ChainScope scope)
    : pool_(pool),
      coders_(coders.begin(), coders.end()),
      team_(team),
      from_(from),
      to_(to),
      scope_(std::move(scope)) {}

absl::StatusOr<std::unique_ptr<Demotion>> Demotion::Begin(PagePool* pool,
                                                          std::span<const CoderOfRank> coders,
                                                          kernels::RankTeam* team,
                                                          const KvLayout& layout,
                                                          std::unique_ptr<SessionKv>* kv) {
  SessionKv& session = **kv;
  LEXICO_CHECK(base::CheckDemotion(session.layout().profile, layout.profile).ok());
  LEXICO_CHECK_EQ(session.n_reserved_pages(), 0);
  std::unique_ptr<Demotion> demotion(new Demotion(pool, coders, team, session.layout(), layout,
                                                  DemotedScope(session, layout.profile)));
  int64_t n_shared = 0;
  for (const uint8_t* block : session.page_blocks()) {
    demotion->is_shared_.push_back(pool->IsShared(block));
    n_shared += demotion->is_shared_.back() ? 1 : 0;
  }
  std::vector<uint8_t*> blocks(n_shared);
  if (!blocks.empty() && !pool->Acquire(layout.page_block_bytes(), blocks, /*from_spare=*/true)) {
    return absl::ResourceExhaustedError(fmt::format(
        "{} of the session's {} blocks of pages are shared with forks or on their way to the store "
        "and need blocks of {} as copies, {} are free; delete or demote forks, or try again",
        n_shared, session.n_pages(),
        base::HumanBytes(static_cast<double>(layout.page_block_bytes())),
        pool->FreeBlocks(layout.page_block_bytes())));
  }
  demotion->for_shared_ = std::move(blocks);
  demotion->parts_ = session.TakeApart();
  kv->reset();
  return demotion;
}

Demotion::~Demotion() {
  pool_->Release(for_shared_);
  pool_->Release(parts_.page_blocks);
  if (parts_.window_block != nullptr) pool_->Release({&parts_.window_block, 1});
}

std::vector<uint8_t*> Demotion::TakeTargets(int64_t n) {
  const size_t bytes = to_.page_block_bytes();
  std::vector<uint8_t*> targets;
  for (int64_t page = next_; page < next_ + n; ++page) {
    uint8_t* block = nullptr;
    if (is_shared_[page]) {
      block = for_shared_.back();
      for_shared_.pop_back();
    } else if (!pool_->Acquire(bytes, {&block, 1}, /*from_spare=*/true)) {
      block = parts_.page_blocks[page];
    }
    targets.push_back(block);
  }
  return targets;
}

void Demotion::DemoteLayer(int layer, std::span<uint8_t* const> targets) {
  const auto n = static_cast<int64_t>(targets.size());
  std::vector<std::vector<PageError>> of_ranks(coders_.size(), std::vector<PageError>(n));
  team_->Run([&](int rank) {
    const CoderOfRank& coder = coders_[rank];
    std::vector<const uint8_t*> sources;
    std::vector<uint8_t*> there;
    for (int64_t i = 0; i < n; ++i) {
      sources.push_back(pool_->At(parts_.page_blocks[next_ + i], rank));
      there.push_back(pool_->At(targets[i], rank));
    }
    DemotePages(from_, to_,
                coder.dictionaries.empty() ? LayerDictionaries{} : coder.dictionaries[layer], layer,
                sources, there, of_ranks[rank], *coder.beside, *coder.scratch);
  });
  std::vector<PageError> errors(n);
  JoinErrors(of_ranks, errors);
  for (int64_t i = 0; i < n; ++i) {
    PageError& error = parts_.errors[(next_ + i) * to_.shape.n_layers + layer];
    error = {DemotedError(error.k, errors[i].k), DemotedError(error.v, errors[i].v)};
  }
}

void Demotion::RunSlice(int64_t n) {
  n = std::min(n, n_pages() - next_);
  if (n == 0) return;
  const std::vector<uint8_t*> targets = TakeTargets(n);
  // In this order a page may become smaller where it is (page_coder.h).
  for (int layer = 0; layer < to_.shape.n_layers; ++layer) DemoteLayer(layer, targets);
  const auto before = static_cast<int64_t>(BlockBytes(from_.page_block_bytes()));
  const auto after = static_cast<int64_t>(BlockBytes(to_.page_block_bytes()));
  for (int64_t i = 0; i < n; ++i) {
    uint8_t*& block = parts_.page_blocks[next_ + i];
    if (targets[i] == block) {
      parts_.spare_bytes += before - after;
      in_place_.push_back(next_ + i);
      continue;
    }
    freed_bytes_ += ((is_shared_[next_ + i] ? 0 : before) - after) * pool_->n_ranks();
    pool_->Release({&block, 1});
    block = targets[i];
  }
  next_ += n;
  if (done()) Repack();
}

bool Demotion::Move(std::span<const int64_t> pages) {
  const size_t bytes = to_.page_block_bytes();
  std::vector<uint8_t> memory(pages.size() * pool_->n_ranks() * bytes);
  std::vector<uint8_t*> blocks;
  for (const int64_t page : pages) blocks.push_back(parts_.page_blocks[page]);
  const auto copies = [&] {
    std::vector<HostCopy> all;
    for (uint8_t* block : blocks) {
      for (int rank = 0; rank < pool_->n_ranks(); ++rank) {
        all.push_back({pool_->At(block, rank), memory.data() + all.size() * bytes, bytes, rank});
      }
    }
    return all;
  };
  pool_->Download(copies());
  if (!pool_->Exchange(bytes, blocks)) return false;
  pool_->Upload(copies());
  for (size_t i = 0; i < pages.size(); ++i) parts_.page_blocks[pages[i]] = blocks[i];
  return true;
}

void Demotion::Repack() {
  std::map<uint32_t, std::vector<int64_t>> by_slab;
  for (const int64_t page : in_place_) {
    by_slab[pool_->SlabOf(parts_.page_blocks[page])].push_back(page);
  }
  const auto gain = static_cast<int64_t>(BlockBytes(from_.page_block_bytes()) -
                                         BlockBytes(to_.page_block_bytes()));
  // A slab that becomes free makes room for pages of others.
  for (bool is_moving = true; is_moving;) {
    is_moving = false;
    for (auto it = by_slab.begin(); it != by_slab.end();) {
      if (!Move(it->second)) {
        ++it;
        continue;
      }
      const auto n = static_cast<int64_t>(it->second.size());
      freed_bytes_ += n * gain * pool_->n_ranks();
      parts_.spare_bytes -= n * gain;
      it = by_slab.erase(it);
      is_moving = true;
    }
  }
}

std::unique_ptr<SessionKv> Demotion::Finish() {
  LEXICO_CHECK(done());
  SessionKv::Parts parts = std::exchange(parts_, {});
  return SessionKv::FromParts(pool_, to_, scope_, std::move(parts));
}

}  // namespace lexico::worker

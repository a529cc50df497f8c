// All memory of keys and values: one arena taken at start-up, on the device of the worker's ops,
// and handed out in blocks.
//
// A block is the pages of all layers for the same tokens, or the windows of all layers of one
// session. Their sizes follow from the profile, so blocks of one size share slabs: a slab is taken
// from the arena when a size has no free block left, and goes back when its last block is released.
// Nothing else allocates keys or values, and the pool never grows, so exhaustion is an ordinary
// event: Acquire says no and the caller decides who waits.
//
// Blocks are reference counted, because forks share their parent's pages and a snapshot holds pages
// while they are written to the store; the last Release makes a block free.
//
// A model that is split over several ranks has an arena of the same layout on each: a block is
// named by its address in the first one, and lies at the same offset in every other (At). What is
// said of bytes of a block is per rank; totals are of all ranks together.
//
// Thread safety: all methods may be called from any thread (the service's threads drop snapshots
// while the engine runs). The bytes of a block belong to whoever acquired it until it is shared;
// shared blocks are never written.
// Lifetime: must outlive every holder of a block.
//
// Invariant (checked when LEXICO_INVARIANTS is on, of the slab each call worked in): blocks with a
// reference + blocks in its free list == blocks of the slab.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernels/api/device_buffer.h"
#include "kernels/api/stream.h"
#include "worker/kv/arena.h"
#include "worker/kv/staging.h"

namespace lexico::worker {

// Blocks begin on a cache line, which is also the widest vector load in use.
inline constexpr size_t kBlockAlignment = 64;

// What a block of `bytes` takes in its slab.
constexpr size_t BlockBytes(size_t bytes) {
  return (bytes + kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment;
}

class PagePool {
 public:
  struct Usage {
    size_t total_bytes = 0;     // the arenas
    size_t used_bytes = 0;      // of blocks with a reference
    size_t reserved_bytes = 0;  // of slabs that hold at least one such block
    int64_t used_blocks = 0;
  };

  // Takes the arena. `slab_bytes` is the largest block that will be asked for times a small number
  // (the rest of a slab that no block fits in is lost); it is rounded up to the alignment. On a
  // device, takes the lanes of `staging` too.
  // InvalidArgument when not even one slab fits; ResourceExhausted when the system or the device
  // refuses the memory. Both messages give the bytes wanted and the option to lower or raise.
  static absl::StatusOr<std::unique_ptr<PagePool>> Create(
      size_t total_bytes, size_t slab_bytes,
      const kernels::Stream& stream = kernels::Stream::Cpu(1), const StagingOptions& staging = {});

  // The same with `total_bytes` shared out among the ranks, which have lanes on a CPU too.
  static absl::StatusOr<std::unique_ptr<PagePool>> CreateForRanks(
      size_t total_bytes, size_t slab_bytes, std::span<const kernels::Stream> streams,
      const StagingOptions& staging = {});

  ~PagePool();
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  // Keeps n slabs for those who take from the spare ones: who makes pages smaller needs a place to
  // begin in a full pool. They are not counted, neither as slabs nor as free. At start.
  void KeepSpare(int64_t n) { n_spare_ = n; }

  // Fills `blocks` with blocks of at least `bytes`, each with one reference and undefined contents,
  // or fills none and returns false. REQUIRES: 0 < bytes <= slab_bytes.
  bool Acquire(size_t bytes, std::span<uint8_t*> blocks, bool from_spare = false);

  // REQUIRES: each block came from this pool and has at least one reference.
  void Retain(std::span<uint8_t* const> blocks);
  void Release(std::span<uint8_t* const> blocks);

  // Whether somebody else has a reference too.
  bool IsShared(const uint8_t* block) const;
  int64_t CountShared(std::span<const uint8_t* const> blocks) const;
  // Of slabs that would be free if these blocks, each named once, lost a reference.
  int64_t SlabsFreedBy(std::span<const uint8_t* const> blocks) const;
  // Gives each of `blocks` back and fills its place with one of at least `bytes`, undefined, also
  // where the pool is full but for what they leave; or does nothing and returns false. REQUIRES: as
  // Release; nobody else has references.
  bool Exchange(size_t bytes, std::span<uint8_t*> blocks);
  // The same number for blocks of one slab.
  uint32_t SlabOf(const uint8_t* block) const;

  int n_ranks() const { return static_cast<int>(arenas_.size()); }
  // Where a block, or any byte of it, lies on a rank.
  template <typename Byte>
  Byte* At(Byte* block, int rank) const {
    return arenas_[rank].data() + (block - arena_);
  }

  // Copies beside the ops, on every rank, done on return. What ops have written is there once their
  // stream was synchronised.
  void CopyBlock(uint8_t* to, const uint8_t* from, size_t bytes) const;
  // Whole copies of single ranks.
  void Download(std::span<const HostCopy> copies) const;
  void Upload(std::span<const HostCopy> copies) const;
  // How pages come to the host and go back. Null: blocks are memory of the host.
  Staging* staging() const { return staging_.get(); }

  Usage usage() const;
  size_t slab_bytes() const { return slab_bytes_; }
  int64_t n_slabs() const { return static_cast<int64_t>(slabs_.size()) - n_spare_; }
  int64_t free_slabs() const;
  // How many blocks of `bytes` could be acquired now, and how many slabs `count` of them would
  // take from the free ones.
  int64_t FreeBlocks(size_t bytes, bool from_spare = false) const;
  int64_t SlabsFor(size_t bytes, int64_t count) const;
  int64_t BlocksPerSlab(size_t bytes) const {
    return static_cast<int64_t>(slab_bytes_ / BlockBytes(bytes));
  }

 private:
  struct Slab {
    size_t block_bytes = 0;      // 0: not in use
    std::vector<uint32_t> refs;  // [blocks of the slab]
    std::vector<uint32_t> free;  // indices of free blocks, taken from the back
    size_t place = 0;            // in `open` of its class, while it has free blocks
  };
  // Slabs of one block size that have a free block.
  struct SizeClass {
    std::vector<uint32_t> open;
    int64_t free_blocks = 0;
  };

  PagePool(std::vector<Arena> arenas, size_t n_slabs, size_t slab_bytes,
           std::vector<kernels::Stream> copies, std::unique_ptr<Staging> staging);
  uint8_t* AcquireOne(size_t block_bytes, SizeClass& size_class)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReleaseOne(uint8_t* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OpenSlab(size_t block_bytes, SizeClass& size_class) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CloseSlab(uint32_t index, SizeClass& size_class) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RemoveFromOpen(uint32_t index, SizeClass& size_class) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether there are n blocks, with so many more free slabs.
  bool Fits(size_t block_bytes, int64_t n, int64_t more_slabs)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t FreeSlabs() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return std::max<int64_t>(static_cast<int64_t>(free_slabs_.size()) - n_spare_, 0);
  }
  uint32_t RefsOf(const uint8_t* block) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t SlabsFreedLocked(std::span<const uint8_t* const> blocks) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CheckInvariant() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Constant after construction.
  const std::vector<Arena> arenas_;  // [n_ranks]
  uint8_t* const arena_;             // of the first
  const size_t slab_bytes_;
  int64_t n_spare_ = 0;                     // free slabs, while there are so many
  const std::unique_ptr<Staging> staging_;  // null on the host

  mutable absl::Mutex copies_mutex_;
  const std::vector<kernels::Stream> copies_;  // [n_ranks], of CopyBlock, with the mutex

  mutable absl::Mutex mutex_;
  std::vector<Slab> slabs_;  // its length is constant; its elements are guarded
  std::vector<uint32_t> free_slabs_ ABSL_GUARDED_BY(mutex_);
  std::map<size_t, SizeClass> classes_ ABSL_GUARDED_BY(mutex_);
  size_t used_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t used_blocks_ ABSL_GUARDED_BY(mutex_) = 0;
};

// One reference to a block. Copying retains. `pool` must outlive it.
class BlockRef {
 public:
  BlockRef() = default;
  // Takes a new reference. REQUIRES: the block has one already.
  BlockRef(PagePool* pool, uint8_t* block);
  BlockRef(const BlockRef& other);
  BlockRef(BlockRef&& other) noexcept;
  BlockRef& operator=(BlockRef other) noexcept;
  ~BlockRef();

  const uint8_t* data() const { return block_; }
  PagePool* pool() const { return pool_; }

 private:
  PagePool* pool_ = nullptr;
  uint8_t* block_ = nullptr;
};

}  // namespace lexico::worker

#include "worker/kv/page_pool.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "proto/base/check.h"
#include "proto/base/options.h"
#include "proto/base/status.h"

namespace lexico::worker {

absl::StatusOr<std::unique_ptr<PagePool>> PagePool::Create(size_t total_bytes, size_t slab_bytes,
                                                           const kernels::Stream& stream,
                                                           const StagingOptions& staging) {
  return CreateForRanks(total_bytes, slab_bytes, {&stream, 1}, staging);
}

absl::StatusOr<std::unique_ptr<PagePool>> PagePool::CreateForRanks(
    size_t total_bytes, size_t slab_bytes, std::span<const kernels::Stream> streams,
    const StagingOptions& staging) {
  slab_bytes = BlockBytes(slab_bytes);
  const size_t arena_bytes = total_bytes / streams.size();
  if (slab_bytes == 0 || arena_bytes < slab_bytes) {
    return absl::InvalidArgumentError(
        fmt::format("kv memory of {} is less than one slab of {}; raise --kv_memory",
                    base::HumanBytes(static_cast<double>(total_bytes)),
                    base::HumanBytes(static_cast<double>(streams.size() * slab_bytes))));
  }
  std::unique_ptr<Staging> lanes;
  // What is stored has to be put together from several arenas.
  const bool direct = streams[0].kind() == kernels::DeviceKind::kCpu && streams.size() == 1;
  if (!direct || staging.on_host) {
    LEXICO_ASSIGN_OR_RETURN(lanes, Staging::Create(staging, streams));
  }
  std::vector<Arena> arenas;
  std::vector<kernels::Stream> copies;
  for (const kernels::Stream& stream : streams) {
    copies.push_back(stream.Sibling());
    LEXICO_ASSIGN_OR_RETURN(Arena arena, Arena::Take(arena_bytes, copies.back()));
    arenas.push_back(std::move(arena));
  }
  return std::unique_ptr<PagePool>(new PagePool(std::move(arenas), arena_bytes / slab_bytes,
                                                slab_bytes, std::move(copies), std::move(lanes)));
}

PagePool::PagePool(std::vector<Arena> arenas, size_t n_slabs, size_t slab_bytes,
                   std::vector<kernels::Stream> copies, std::unique_ptr<Staging> staging)
    : arenas_(std::move(arenas)),
      arena_(arenas_[0].data()),
      slab_bytes_(slab_bytes),
      staging_(std::move(staging)),
      copies_(std::move(copies)) {
  slabs_.resize(n_slabs);
  // Taken from the back, so that the arena fills from its beginning.
  for (size_t i = slabs_.size(); i > 0; --i) free_slabs_.push_back(static_cast<uint32_t>(i - 1));
}

PagePool::~PagePool() { LEXICO_CHECK_EQ(used_blocks_, 0); }

uint32_t PagePool::SlabOf(const uint8_t* block) const {
  LEXICO_CHECK(block >= arena_);
  const size_t index = static_cast<size_t>(block - arena_) / slab_bytes_;
  LEXICO_CHECK_LT(index, slabs_.size());
  return static_cast<uint32_t>(index);
}

void PagePool::OpenSlab(size_t block_bytes, SizeClass& size_class) {
  const uint32_t index = free_slabs_.back();
  free_slabs_.pop_back();
  Slab& slab = slabs_[index];
  const auto n_blocks = static_cast<uint32_t>(slab_bytes_ / block_bytes);
  slab.block_bytes = block_bytes;
  slab.refs.assign(n_blocks, 0);
  slab.free.resize(n_blocks);
  for (uint32_t i = 0; i < n_blocks; ++i) slab.free[i] = n_blocks - 1 - i;
  slab.place = size_class.open.size();
  size_class.open.push_back(index);
  size_class.free_blocks += n_blocks;
}

void PagePool::RemoveFromOpen(uint32_t index, SizeClass& size_class) {
  const size_t place = slabs_[index].place;
  size_class.open[place] = size_class.open.back();
  slabs_[size_class.open[place]].place = place;
  size_class.open.pop_back();
}

void PagePool::CloseSlab(uint32_t index, SizeClass& size_class) {
  RemoveFromOpen(index, size_class);
  Slab& slab = slabs_[index];
  size_class.free_blocks -= static_cast<int64_t>(slab.free.size());
  slab = Slab{};
  free_slabs_.push_back(index);
}

uint8_t* PagePool::AcquireOne(size_t block_bytes, SizeClass& size_class) {
  if (size_class.open.empty()) OpenSlab(block_bytes, size_class);
  const uint32_t index = size_class.open.back();
  Slab& slab = slabs_[index];
  const uint32_t place = slab.free.back();
  slab.free.pop_back();
  slab.refs[place] = 1;
  --size_class.free_blocks;
  if (slab.free.empty()) RemoveFromOpen(index, size_class);
  ++used_blocks_;
  used_bytes_ += block_bytes;
  return arena_ + index * slab_bytes_ + place * block_bytes;
}

void PagePool::CopyBlock(uint8_t* to, const uint8_t* from, size_t bytes) const {
  absl::MutexLock lock(&copies_mutex_);
  for (int rank = 0; rank < n_ranks(); ++rank) {
    copies_[rank].CopyWithin(At(to, rank), At(from, rank), bytes);
  }
  for (const kernels::Stream& stream : copies_) stream.Synchronize();
}

void PagePool::Download(std::span<const HostCopy> copies) const {
  if (staging_ != nullptr) return staging_->Download(copies);
  for (const HostCopy& copy : copies) std::memcpy(copy.host, copy.block, copy.bytes);
}

void PagePool::Upload(std::span<const HostCopy> copies) const {
  if (staging_ != nullptr) return staging_->Upload(copies);
  for (const HostCopy& copy : copies) std::memcpy(copy.block, copy.host, copy.bytes);
}

bool PagePool::Fits(size_t block_bytes, int64_t n, int64_t more_slabs) {
  const int64_t slabs = FreeSlabs() + more_slabs;
  return classes_[block_bytes].free_blocks + slabs * BlocksPerSlab(block_bytes) >= n;
}

bool PagePool::Acquire(size_t bytes, std::span<uint8_t*> blocks, bool from_spare) {
  const size_t block_bytes = BlockBytes(bytes);
  LEXICO_CHECK_GT(block_bytes, size_t{0});
  LEXICO_CHECK_LE(block_bytes, slab_bytes_);
  absl::MutexLock lock(&mutex_);
  const int64_t spare =
      from_spare ? static_cast<int64_t>(free_slabs_.size()) - FreeSlabs() : int64_t{0};
  if (!Fits(block_bytes, std::ssize(blocks), spare)) return false;
  for (uint8_t*& block : blocks) block = AcquireOne(block_bytes, classes_[block_bytes]);
  CheckInvariant();
  return true;
}

bool PagePool::Exchange(size_t bytes, std::span<uint8_t*> blocks) {
  const size_t block_bytes = BlockBytes(bytes);
  LEXICO_CHECK_LE(block_bytes, slab_bytes_);
  absl::MutexLock lock(&mutex_);
  const std::vector<const uint8_t*> old(blocks.begin(), blocks.end());
  if (!Fits(block_bytes, std::ssize(blocks), SlabsFreedLocked(old))) return false;
  for (uint8_t* block : blocks) {
    LEXICO_CHECK_EQ(RefsOf(block), 1u);
    ReleaseOne(block);
  }
  for (uint8_t*& block : blocks) block = AcquireOne(block_bytes, classes_[block_bytes]);
  CheckInvariant();
  return true;
}

void PagePool::Retain(std::span<uint8_t* const> blocks) {
  absl::MutexLock lock(&mutex_);
  for (uint8_t* block : blocks) {
    const uint32_t index = SlabOf(block);
    Slab& slab = slabs_[index];
    LEXICO_CHECK_GT(slab.block_bytes, size_t{0});
    uint32_t& refs = slab.refs[(block - arena_ - index * slab_bytes_) / slab.block_bytes];
    LEXICO_CHECK_GT(refs, 0u);
    ++refs;
  }
}

uint32_t PagePool::RefsOf(const uint8_t* block) const {
  const uint32_t index = SlabOf(block);
  const Slab& slab = slabs_[index];
  LEXICO_CHECK_GT(slab.block_bytes, size_t{0});
  return slab.refs[(block - arena_ - index * slab_bytes_) / slab.block_bytes];
}

bool PagePool::IsShared(const uint8_t* block) const { return CountShared({&block, 1}) > 0; }

int64_t PagePool::CountShared(std::span<const uint8_t* const> blocks) const {
  absl::MutexLock lock(&mutex_);
  return std::ranges::count_if(blocks, [this](const uint8_t* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(
                                           mutex_) { return RefsOf(block) > 1; });
}

int64_t PagePool::SlabsFreedLocked(std::span<const uint8_t* const> blocks) const {
  std::map<uint32_t, size_t> last_of_slab;
  for (const uint8_t* block : blocks) {
    if (RefsOf(block) == 1) ++last_of_slab[SlabOf(block)];
  }
  return std::ranges::count_if(last_of_slab, [this](const auto& entry) {
    const Slab& slab = slabs_[entry.first];
    return slab.free.size() + entry.second == slab.refs.size();
  });
}

int64_t PagePool::SlabsFreedBy(std::span<const uint8_t* const> blocks) const {
  absl::MutexLock lock(&mutex_);
  return SlabsFreedLocked(blocks);
}

void PagePool::ReleaseOne(uint8_t* block) {
  const uint32_t index = SlabOf(block);
  Slab& slab = slabs_[index];
  LEXICO_CHECK_GT(slab.block_bytes, size_t{0});
  const auto place =
      static_cast<uint32_t>((block - arena_ - index * slab_bytes_) / slab.block_bytes);
  LEXICO_CHECK_GT(slab.refs[place], 0u);
  if (--slab.refs[place] > 0) return;

  SizeClass& size_class = classes_[slab.block_bytes];
  --used_blocks_;
  used_bytes_ -= slab.block_bytes;
  ++size_class.free_blocks;
  if (slab.free.empty()) {
    slab.place = size_class.open.size();
    size_class.open.push_back(index);
  }
  slab.free.push_back(place);
  if (slab.free.size() == slab.refs.size()) CloseSlab(index, size_class);
}

void PagePool::Release(std::span<uint8_t* const> blocks) {
  absl::MutexLock lock(&mutex_);
  for (uint8_t* block : blocks) ReleaseOne(block);
  CheckInvariant();
}

PagePool::Usage PagePool::usage() const {
  absl::MutexLock lock(&mutex_);
  const auto ranks = static_cast<size_t>(n_ranks());
  return Usage{.total_bytes = ranks * slabs_.size() * slab_bytes_,
               .used_bytes = ranks * used_bytes_,
               .reserved_bytes = ranks * (slabs_.size() - free_slabs_.size()) * slab_bytes_,
               .used_blocks = used_blocks_};
}

int64_t PagePool::free_slabs() const {
  absl::MutexLock lock(&mutex_);
  return FreeSlabs();
}

int64_t PagePool::FreeBlocks(size_t bytes, bool from_spare) const {
  absl::MutexLock lock(&mutex_);
  const auto it = classes_.find(BlockBytes(bytes));
  const int64_t open = it == classes_.end() ? 0 : it->second.free_blocks;
  const int64_t slabs = from_spare ? static_cast<int64_t>(free_slabs_.size()) : FreeSlabs();
  return open + slabs * BlocksPerSlab(bytes);
}

int64_t PagePool::SlabsFor(size_t bytes, int64_t count) const {
  absl::MutexLock lock(&mutex_);
  const auto it = classes_.find(BlockBytes(bytes));
  const int64_t open = it == classes_.end() ? 0 : it->second.free_blocks;
  const int64_t per_slab = BlocksPerSlab(bytes);
  return count <= open ? 0 : (count - open + per_slab - 1) / per_slab;
}

void PagePool::CheckInvariant() const {
#if defined(LEXICO_INVARIANTS)
  // Counting references in all slabs would make every call cost O(pool): the last open slab of a
  // class is where the call worked.
  for (const auto& [block_bytes, size_class] : classes_) {
    int64_t free_blocks = 0;
    for (const uint32_t index : size_class.open) {
      LEXICO_CHECK_EQ(slabs_[index].block_bytes, block_bytes);
      LEXICO_CHECK_GT(slabs_[index].free.size(), size_t{0});
      free_blocks += static_cast<int64_t>(slabs_[index].free.size());
    }
    LEXICO_CHECK_EQ(free_blocks, size_class.free_blocks);
    if (size_class.open.empty()) continue;
    const Slab& slab = slabs_[size_class.open.back()];
    size_t referenced = 0;
    for (const uint32_t refs : slab.refs) referenced += refs > 0;
    LEXICO_CHECK_EQ(referenced + slab.free.size(), slab.refs.size());
  }
#endif
}

BlockRef::BlockRef(PagePool* pool, uint8_t* block) : pool_(pool), block_(block) {
  pool_->Retain({&block_, 1});
}

BlockRef::BlockRef(const BlockRef& other) : pool_(other.pool_), block_(other.block_) {
  if (pool_ != nullptr) pool_->Retain({&block_, 1});
}

BlockRef::BlockRef(BlockRef&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)), block_(std::exchange(other.block_, nullptr)) {}

BlockRef& BlockRef::operator=(BlockRef other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(block_, other.block_);
  return *this;
}

BlockRef::~BlockRef() {
  if (pool_ != nullptr) pool_->Release({&block_, 1});
}

}  // namespace lexico::worker

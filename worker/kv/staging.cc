#include "worker/kv/staging.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "proto/base/check.h"
#include "proto/base/status.h"

namespace lexico::worker {
namespace {

// A piece of a copy and its place in a half.
struct Piece {
  HostCopy copy;
  uint8_t* staged = nullptr;

  HostCopy to_staged() const { return {copy.block, staged, copy.bytes, copy.rank}; }
};

// Calls `move` with pieces of the copies, in their order, as many as a half holds.
template <typename Move>
void ForEachLoad(std::span<const HostCopy> copies, std::span<uint8_t> half, Move move) {
  std::vector<Piece> load;
  size_t used = 0;
  for (HostCopy rest : copies) {
    while (rest.bytes > 0) {
      if (used == half.size()) {
        move(load);
        load.clear();
        used = 0;
      }
      const size_t bytes = std::min(rest.bytes, half.size() - used);
      load.push_back({{rest.block, rest.host, bytes, rest.rank}, half.data() + used});
      rest = {rest.block + bytes, rest.host + bytes, rest.bytes - bytes, rest.rank};
      used += bytes;
    }
  }
  move(load);
}

}  // namespace

void Lane::Add(const HostCopy& copy, Direction direction) {
  if (next_.bytes > 0 && direction == direction_ && copy.rank == next_.rank &&
      copy.block == next_.block + next_.bytes && copy.host == next_.host + next_.bytes) {
    next_.bytes += copy.bytes;
    return;
  }
  Start();
  next_ = copy;
  direction_ = direction;
}

void Lane::Start() {
  const kernels::Stream& stream = streams_[next_.rank];
  if (direction_ == Direction::kToHost) {
    stream.DownloadAsync(next_.host, next_.block, next_.bytes);
  } else {
    stream.UploadAsync(next_.block, next_.host, next_.bytes);
  }
  next_ = {};
}

void Lane::Synchronize() {
  Start();
  for (const kernels::Stream& stream : streams_) stream.Synchronize();
}

absl::StatusOr<std::unique_ptr<Staging>> Staging::Create(const StagingOptions& options,
                                                         std::span<const kernels::Stream> streams) {
  LEXICO_CHECK_GT(options.n_lanes, 0);
  std::vector<std::unique_ptr<Lane>> lanes;
  for (int i = 0; i < options.n_lanes + 1; ++i) {
    std::vector<kernels::Stream> own;
    for (const kernels::Stream& stream : streams) own.push_back(stream.Sibling());
    LEXICO_ASSIGN_OR_RETURN(kernels::HostBuffer memory,
                            kernels::HostBuffer::Allocate(2 * options.half_bytes, own[0]));
    lanes.push_back(std::make_unique<Lane>(std::move(memory), std::move(own)));
  }
  return std::unique_ptr<Staging>(new Staging(std::move(lanes)));
}

Staging::Staging(std::vector<std::unique_ptr<Lane>> lanes) : lanes_(std::move(lanes)) {
  for (size_t i = 1; i < lanes_.size(); ++i) free_.push_back(lanes_[i].get());
}

Staging::LaneHold Staging::Take() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(
      +[](std::vector<Lane*>* free) { return !free->empty(); }, &free_));
  Lane* const lane = free_.back();
  free_.pop_back();
  return LaneHold(lane, Return{this});
}

void Staging::GiveBack(Lane* lane) {
  lane->Synchronize();
  absl::MutexLock lock(&mutex_);
  free_.push_back(lane);
}

void Staging::Download(std::span<const HostCopy> copies) {
  absl::MutexLock lock(&first_mutex_);
  Lane& lane = *lanes_[0];
  ForEachLoad(copies, lane.half(0), [&](std::span<const Piece> load) {
    for (const Piece& piece : load) lane.Download(piece.to_staged());
    lane.Synchronize();
    for (const Piece& piece : load) std::memcpy(piece.copy.host, piece.staged, piece.copy.bytes);
  });
}

void Staging::Upload(std::span<const HostCopy> copies) {
  absl::MutexLock lock(&first_mutex_);
  Lane& lane = *lanes_[0];
  ForEachLoad(copies, lane.half(0), [&](std::span<const Piece> load) {
    for (const Piece& piece : load) {
      std::memcpy(piece.staged, piece.copy.host, piece.copy.bytes);
      lane.Upload(piece.to_staged());
    }
    lane.Synchronize();
  });
}

}  // namespace lexico::worker

#include "kernels/cpu/collective.h"

#include <barrier>
#include <cstring>

#include "proto/base/check.h"

namespace lexico::kernels::cpu {
namespace {

// What the ranks show each other between two barriers.
struct Meeting {
  explicit Meeting(int size) : barrier(size), arrays(size) {}
  std::barrier<> barrier;
  std::vector<const float*> arrays;  // [size]
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(int rank, int size, std::shared_ptr<Meeting> meeting)
      : Communicator(rank, size), meeting_(std::move(meeting)) {}

  // Every rank adds up its part of the numbers and writes the sums into all arrays.
  void AllReduceSum(float* x, int64_t n, const Stream& stream) override {
    LEXICO_CHECK_GE(n, 0);
    Meet(x);
    const RankPart part = PartOfRank(n, rank(), size());
    for (int64_t i = part.begin; i < part.begin + part.count; ++i) {
      float sum = meeting_->arrays[0][i];
      for (int other = 1; other < size(); ++other) sum += meeting_->arrays[other][i];
      for (const float* array : meeting_->arrays) const_cast<float*>(array)[i] = sum;
    }
    Leave();
  }

  void AllGatherColumns(const float* local, int64_t n_rows, int64_t width, float* out,
                        const Stream& stream) override {
    LEXICO_CHECK_GT(PartOfRank(width, size() - 1, size()).count, 0);
    Meet(local);
    for (int other = 0; other < size(); ++other) {
      const RankPart part = PartOfRank(width, other, size());
      for (int64_t row = 0; row < n_rows; ++row) {
        std::memcpy(out + row * width + part.begin, meeting_->arrays[other] + row * part.count,
                    part.count * sizeof(float));
      }
    }
    Leave();
  }

 private:
  void Meet(const float* array) {
    meeting_->arrays[rank()] = array;
    meeting_->barrier.arrive_and_wait();
  }
  // Nobody touches another's array afterwards.
  void Leave() { meeting_->barrier.arrive_and_wait(); }

  const std::shared_ptr<Meeting> meeting_;
};

}  // namespace

std::vector<std::shared_ptr<Communicator>> MakeCommunicators(int size) {
  LEXICO_CHECK_GE(size, 2);
  const auto meeting = std::make_shared<Meeting>(size);
  std::vector<std::shared_ptr<Communicator>> communicators;
  for (int rank = 0; rank < size; ++rank) {
    communicators.push_back(std::make_shared<ThreadCommunicator>(rank, size, meeting));
  }
  return communicators;
}

}  // namespace lexico::kernels::cpu

#include "kernels/api/rank_team.h"

#include <chrono>

#include "proto/base/check.h"

namespace lexico::kernels {
namespace {

// Until the value is another one. A step of decode follows the last one within microseconds, and a
// thread that sleeps takes tens of them to wake: it looks on for a while first.
void WaitForChange(const std::atomic<uint32_t>& value, uint32_t old) {
  constexpr std::chrono::microseconds kSpin(50);
  const auto end = std::chrono::steady_clock::now() + kSpin;
  while (value.load(std::memory_order_acquire) == old) {
    if (std::chrono::steady_clock::now() < end) continue;
    value.wait(old, std::memory_order_acquire);
  }
}

}  // namespace

RankTeam::RankTeam(int size) : size_(size) {
  LEXICO_CHECK_GE(size, 1);
  for (int rank = 1; rank < size; ++rank) {
    helpers_.emplace_back([this, rank] { Helper(rank); });
  }
}

RankTeam::~RankTeam() {
  stopping_ = true;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void RankTeam::RunTogether(absl::FunctionRef<void(int)> work) {
  work_ = &work;
  left_.store(static_cast<uint32_t>(size_ - 1), std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  work(0);
  while (const uint32_t left = left_.load(std::memory_order_acquire)) WaitForChange(left_, left);
}

void RankTeam::Helper(int rank) {
  for (uint32_t round = 0;; ++round) {
    WaitForChange(round_, round);
    if (stopping_) return;
    (*work_)(rank);
    if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) left_.notify_one();
  }
}

}  // namespace lexico::kernels

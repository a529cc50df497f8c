// A GPU, one CUDA stream of it and the workspace of the ops enqueued there. Thread-compatible.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "kernels/api/device.h"
#include "kernels/api/stream.h"

namespace lexico::kernels::cuda {

class MatMulPlans;  // matmul_plans.h

class Gpu final : public Device {
 public:
  // The GPU `ordinal` exists and is new enough (open_device.cc). `workspace` is device memory that
  // the Gpu frees.
  // Ops of a stream that goes first start before those of others that wait as well.
  Gpu(int ordinal, std::string name, bool goes_first);
  ~Gpu() override;

  // False where that much is not free. Called once, before the first op.
  bool TakeWorkspace(size_t bytes);

  const std::string& name() const override { return name_; }
  void* Allocate(size_t bytes) override;
  size_t FreeBytes() const override;
  void Free(void* data) override;
  void CopyFromHost(void* device, const void* host, size_t bytes) override;
  void CopyToHost(void* host, const void* device, size_t bytes) override;
  void* AllocateHost(size_t bytes) override;
  void FreeHost(void* data) override;
  void UploadAsync(void* device, const void* host, size_t bytes) override;
  void DownloadAsync(void* host, const void* device, size_t bytes) override;
  void CopyWithin(void* to, const void* from, size_t bytes) override;
  void Zero(void* to, size_t bytes) override;
  void Synchronize() override;
  void WaitFor(Device& other) override;
  std::unique_ptr<Graph> Record(absl::FunctionRef<void()> ops, std::unique_ptr<Graph> old) override;
  void Replay(const Graph& graph) override;
  std::unique_ptr<DeviceEvent> NewEvent() override;
  std::vector<double> ReplayMicroseconds(const std::function<void()>& body, int n) override;

  // CUDA calls of this thread go to this GPU from here on.
  void MakeCurrent() const;
  cudaStream_t stream() const { return stream_; }
  int ordinal() const { return ordinal_; }
  int n_multiprocessors() const { return n_multiprocessors_; }
  // Of one block, at most.
  size_t shared_bytes_max() const { return shared_bytes_max_; }
  // Whether the kernel that is now launched can start while the one before it ends (overlap.cuh):
  // the GPU can, and no other stream is waited for in between.
  bool TakeOverlap() const { return overlaps_ && !std::exchange(joined_, false); }

  // The memory of ops in flight. An op overwrites it as it likes, because ops of one stream run one
  // after another; nothing in it outlives the op.
  char* workspace() const { return workspace_; }
  size_t workspace_bytes() const { return workspace_bytes_; }

  // What MatMul keeps with the stream: null until the first PrepareMatrix.
  std::unique_ptr<MatMulPlans>& matmul_plans() const { return matmul_plans_; }

 private:
  const int ordinal_;
  const std::string name_;
  int n_multiprocessors_ = 0;
  size_t shared_bytes_max_ = 0;
  bool overlaps_ = false;
  mutable bool joined_ = false;  // since the last kernel
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
  cudaEvent_t so_far_ = nullptr;  // of WaitFor
  char* workspace_ = nullptr;
  size_t workspace_bytes_ = 0;
  mutable std::unique_ptr<MatMulPlans> matmul_plans_;
};

inline constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The GPU behind a stream. REQUIRES: stream.kind() == DeviceKind::kCuda
const Gpu& GpuOf(const Stream& stream);

// Cuts a workspace into arrays, each aligned to 256 bytes. With a null base it only counts.
class WorkspaceCutter {
 public:
  explicit WorkspaceCutter(char* base) : base_(base) {}
  template <typename T>
  T* Take(size_t n) {
    T* array = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + bytes_);
    bytes_ += (n * sizeof(T) + 255) / 256 * 256;
    return array;
  }
  size_t bytes() const { return bytes_; }

 private:
  char* base_;
  size_t bytes_ = 0;
};

}  // namespace lexico::kernels::cuda

#include "kernels/cuda/gpu.h"

#include <fmt/format.h>

#include <utility>

#include "kernels/cuda/check.h"
#include "kernels/cuda/graph.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/matmul_plans.h"
#include "proto/base/check.h"

namespace lexico::kernels::cuda {
namespace {

int Attribute(cudaDeviceAttr attribute, int ordinal) {
  int value = 0;
  LEXICO_CUDA_CHECK(cudaDeviceGetAttribute(&value, attribute, ordinal));
  return value;
}

// cudaMalloc, or null where the memory does not suffice.
void* TryAllocate(size_t bytes) {
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // an allocation that fails leaves the device as it was
    return nullptr;
  }
  LEXICO_CUDA_CHECK(error);
  return data;
}

class GpuEvent final : public DeviceEvent {
 public:
  GpuEvent() { LEXICO_CUDA_CHECK(cudaEventCreate(&event_)); }
  ~GpuEvent() override { LEXICO_CUDA_CHECK(cudaEventDestroy(event_)); }
  GpuEvent(const GpuEvent&) = delete;
  GpuEvent& operator=(const GpuEvent&) = delete;

  void Record(Device& device) override {
    const auto& gpu = static_cast<const Gpu&>(device);
    gpu.MakeCurrent();
    LEXICO_CUDA_CHECK(cudaEventRecord(event_, gpu.stream()));
  }
  void HoldBack(Device& device) const override {
    const auto& gpu = static_cast<const Gpu&>(device);
    gpu.MakeCurrent();
    LEXICO_CUDA_CHECK(cudaStreamWaitEvent(gpu.stream(), event_));
  }
  double MicrosecondsSince(const DeviceEvent& earlier) const override {
    float milliseconds = 0;
    LEXICO_CUDA_CHECK(
        cudaEventElapsedTime(&milliseconds, static_cast<const GpuEvent&>(earlier).event_, event_));
    return 1e3 * milliseconds;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace

Gpu::Gpu(int ordinal, std::string name, bool goes_first)
    : ordinal_(ordinal), name_(std::move(name)) {
  MakeCurrent();
  n_multiprocessors_ = Attribute(cudaDevAttrMultiProcessorCount, ordinal);
  shared_bytes_max_ = Attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal);
  // Code of 9.0 runs there only; what runs elsewhere does not wait by itself.
  overlaps_ = Attribute(cudaDevAttrComputeCapabilityMajor, ordinal) == 9 &&
              Attribute(cudaDevAttrComputeCapabilityMinor, ordinal) == 0;
  int last = 0;
  int first = 0;
  LEXICO_CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&last, &first));
  LEXICO_CUDA_CHECK(
      cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, goes_first ? first : last));
  LEXICO_CUDA_CHECK(cudaEventCreate(&begin_));
  LEXICO_CUDA_CHECK(cudaEventCreate(&end_));
  LEXICO_CUDA_CHECK(cudaEventCreateWithFlags(&so_far_, cudaEventDisableTiming));
}

Gpu::~Gpu() {
  Synchronize();
  matmul_plans_.reset();
  LEXICO_CUDA_CHECK(cudaFree(workspace_));
  LEXICO_CUDA_CHECK(cudaEventDestroy(so_far_));
  LEXICO_CUDA_CHECK(cudaEventDestroy(end_));
  LEXICO_CUDA_CHECK(cudaEventDestroy(begin_));
  LEXICO_CUDA_CHECK(cudaStreamDestroy(stream_));
}

bool Gpu::TakeWorkspace(size_t bytes) {
  LEXICO_CHECK(workspace_ == nullptr);
  workspace_ = static_cast<char*>(Allocate(bytes));
  workspace_bytes_ = bytes;
  return workspace_ != nullptr;
}

void Gpu::MakeCurrent() const { LEXICO_CUDA_CHECK(cudaSetDevice(ordinal_)); }

void* Gpu::Allocate(size_t bytes) {
  MakeCurrent();
  return TryAllocate(bytes);
}

size_t Gpu::FreeBytes() const {
  MakeCurrent();
  size_t free = 0;
  size_t total = 0;
  LEXICO_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return free;
}

void Gpu::Free(void* data) {
  Synchronize();
  LEXICO_CUDA_CHECK(cudaFree(data));
}

void Gpu::CopyFromHost(void* device, const void* host, size_t bytes) {
  MakeCurrent();
  LEXICO_CUDA_CHECK(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_));
  LEXICO_CUDA_CHECK(cudaStreamSynchronize(stream_));
}

void Gpu::CopyToHost(void* host, const void* device, size_t bytes) {
  MakeCurrent();
  LEXICO_CUDA_CHECK(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_));
  LEXICO_CUDA_CHECK(cudaStreamSynchronize(stream_));
}

void* Gpu::AllocateHost(size_t bytes) {
  MakeCurrent();
  void* data = nullptr;
  const cudaError_t error = cudaHostAlloc(&data, bytes, cudaHostAllocDefault);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  LEXICO_CUDA_CHECK(error);
  return data;
}

void Gpu::FreeHost(void* data) {
  Synchronize();
  LEXICO_CUDA_CHECK(cudaFreeHost(data));
}

void Gpu::UploadAsync(void* device, const void* host, size_t bytes) {
  MakeCurrent();
  LEXICO_CUDA_CHECK(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_));
}

void Gpu::DownloadAsync(void* host, const void* device, size_t bytes) {
  MakeCurrent();
  LEXICO_CUDA_CHECK(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_));
}

void Gpu::CopyWithin(void* to, const void* from, size_t bytes) {
  MakeCurrent();
  LEXICO_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_));
}

void Gpu::Zero(void* to, size_t bytes) {
  MakeCurrent();
  LEXICO_CUDA_CHECK(cudaMemsetAsync(to, 0, bytes, stream_));
}

void Gpu::Synchronize() {
  MakeCurrent();
  LEXICO_CUDA_CHECK(cudaStreamSynchronize(stream_));
}

std::unique_ptr<DeviceEvent> Gpu::NewEvent() {
  MakeCurrent();
  return std::make_unique<GpuEvent>();
}

void Gpu::WaitFor(Device& other) {
  MakeCurrent();
  const Gpu& gpu = static_cast<const Gpu&>(other);
  LEXICO_CUDA_CHECK(cudaEventRecord(gpu.so_far_, gpu.stream_));
  LEXICO_CUDA_CHECK(cudaStreamWaitEvent(stream_, gpu.so_far_));
  joined_ = true;
}

std::unique_ptr<Graph> Gpu::Record(absl::FunctionRef<void()> ops, std::unique_ptr<Graph> old) {
  MakeCurrent();
  return RecordedGraph::Record(stream_, ops, std::move(old));
}

void Gpu::Replay(const Graph& graph) {
  MakeCurrent();
  static_cast<const RecordedGraph&>(graph).Launch(stream_);
}

std::vector<double> Gpu::ReplayMicroseconds(const std::function<void()>& body, int n) {
  const std::unique_ptr<Graph> graph = Record(body, nullptr);
  LEXICO_CHECK(graph != nullptr);
  Replay(*graph);
  std::vector<double> microseconds;
  for (int i = 0; i < n; ++i) {
    LEXICO_CUDA_CHECK(cudaEventRecord(begin_, stream_));
    Replay(*graph);
    LEXICO_CUDA_CHECK(cudaEventRecord(end_, stream_));
    LEXICO_CUDA_CHECK(cudaEventSynchronize(end_));
    float milliseconds = 0;
    LEXICO_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, begin_, end_));
    microseconds.push_back(1e3 * milliseconds);
  }
  return microseconds;
}

const Gpu& GpuOf(const Stream& stream) {
  LEXICO_CHECK(stream.kind() == DeviceKind::kCuda);
  return static_cast<const Gpu&>(*stream.device());
}

std::string LaunchText(const LaunchShape& shape) {
  return fmt::format("kernel {}, grid {} x {} x {}, {} threads, {} bytes of shared memory",
                     shape.kernel, shape.blocks.x, shape.blocks.y, shape.blocks.z, shape.threads,
                     shape.shared_bytes);
}

}  // namespace lexico::kernels::cuda

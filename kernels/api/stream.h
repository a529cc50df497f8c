// Where an op runs. On a CPU an op has finished when it returns; on a GPU it is enqueued, in the
// order of the calls, and arrays of its arguments lie in the memory of that GPU unless the op's
// header says otherwise (device_buffer.h).
//
// Thread-compatible: one thread uses a Stream at a time. Ops on the CPU split their work over
// `threads` OpenMP threads; results do not depend on how many. Copies of a Stream are the same
// stream.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "kernels/api/device.h"

namespace lexico::kernels {

enum class DeviceKind { kCpu, kCuda };

struct CudaOptions {
  int ordinal = 0;
  // Device memory that ops of the stream use for intermediate results, taken when the stream is
  // made. An op whose work does not fit runs in several waves; what its smallest wave needs is said
  // in its file under kernels/cuda.
  size_t workspace_bytes = size_t{64} << 20;
};

class Stream {
 public:
  // threads <= 0: as many as the machine has processors.
  static Stream Cpu(int threads = 0);

  // A new stream of a GPU. Unavailable: this build has no GPU code, or there is no such GPU or
  // driver; FailedPrecondition: the GPU or its driver is too old for the kernels of this build;
  // ResourceExhausted: the workspace does not fit.
  static absl::StatusOr<Stream> Cuda(const CudaOptions& options);

  DeviceKind kind() const { return kind_; }
  int threads() const { return threads_; }
  // Null on a CPU.
  const std::shared_ptr<Device>& device() const { return device_; }

  // By name: "cpu", with `threads` as above; "cuda", the first GPU; or "cuda:1", with a workspace
  // for whole models. InvalidArgument for another name, with those that are.
  static absl::StatusOr<Stream> Open(const std::string& device, int threads);
  // Whether it is such a name, without a look at the machine.
  static absl::Status CheckName(const std::string& device);

  // `size` of them, for the ranks of one model (collective.h): consecutive GPUs from the named one
  // on, or CPU streams that share the threads. InvalidArgument unless 1 <= size <= base::kRanksMax;
  // what Open says of a GPU, with how many are needed.
  static absl::StatusOr<std::vector<Stream>> OpenRanks(const std::string& device, int threads,
                                                       int size);

  // Another stream of the same device for copies, and ops without intermediate results, beside
  // those of this one: it has no workspace. On a CPU the same stream.
  Stream Sibling() const;

  // What is enqueued here from now on starts when all that was enqueued on `other` so far has
  // finished; while `other` is recorded, this stream is too, and has to be waited for there. No
  // effect on the same stream. REQUIRES: streams of one device.
  void WaitFor(const Stream& other) const {
    if (device_ != other.device_) device_->WaitFor(*other.device_);
  }

  // Another stream of the same device for ops beside those of this one, which go first where both
  // wait. On a CPU the same stream. ResourceExhausted: the workspace does not fit.
  absl::StatusOr<Stream> Beside(size_t workspace_bytes) const;

  // Returns when all ops enqueued so far have finished.
  void Synchronize() const {
    if (device_ != nullptr) device_->Synchronize();
  }

  // Copies between host memory and the stream's, after the ops enqueued so far; done on return.
  // REQUIRES, of these and those below: the two arrays do not overlap.
  void Upload(void* to, const void* host, size_t bytes) const;
  void Download(void* host, const void* from, size_t bytes) const;

  // The same in the order of the ops, on a CPU stream at once. `host` is of a HostBuffer of this
  // stream (host_buffer.h) and stays as it is until Synchronize has returned.
  void UploadAsync(void* to, const void* host, size_t bytes) const;
  void DownloadAsync(void* host, const void* from, size_t bytes) const;
  void CopyWithin(void* to, const void* from, size_t bytes) const;
  void Zero(void* to, size_t bytes) const;

  // What `ops` enqueues on this stream, recorded instead of run (a CUDA graph). Kernels, their
  // grids and their arguments stay as they are; what lies in the memory that they name is read when
  // they run, so only ops that read lengths and addresses from there serve again. Ops that
  // synchronise, or that are called for the first time with a shape (matmul.h), cannot be recorded.
  // `old`, if there is one, is used up: where it has the same kernels in the same order it becomes
  // the new graph, which takes no memory and less time. Null where the device's memory does not
  // suffice; the graph is of this stream and goes before it. REQUIRES: a GPU stream.
  std::unique_ptr<Graph> Record(absl::FunctionRef<void()> ops,
                                std::unique_ptr<Graph> old = nullptr) const {
    return device_->Record(ops, std::move(old));
  }
  // Enqueues them again. Errors are those of the ops: reported at the latest by Synchronize.
  void Replay(const Graph& graph) const { device_->Replay(graph); }

  // Ends the helper threads that earlier ops of the calling thread left waiting for its next op. To
  // be called by a thread that has prepared a model and runs no more ops: the OpenMP runtime counts
  // its waiting threads, and as soon as all teams together have more than the machine has
  // processors, every one of them sleeps at once instead of spinning. Measured: a decode step of
  // the embedded model sleeps and wakes about sixty times, docs/adr/0002.
  void ReleaseThreads() const;

 private:
  Stream(DeviceKind kind, int threads, std::shared_ptr<Device> device)
      : kind_(kind), threads_(threads), device_(std::move(device)) {}
  DeviceKind kind_;
  int threads_;
  std::shared_ptr<Device> device_;
};

}  // namespace lexico::kernels

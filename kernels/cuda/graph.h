// Ops of one stream as a CUDA graph.
#pragma once

#include <cuda_runtime.h>

#include <memory>

#include "absl/functional/function_ref.h"
#include "kernels/api/device.h"

namespace lexico::kernels::cuda {

class RecordedGraph final : public Graph {
 public:
  // As Device::Record, for the GPU that is current.
  static std::unique_ptr<Graph> Record(cudaStream_t stream, absl::FunctionRef<void()> ops,
                                       std::unique_ptr<Graph> old);
  ~RecordedGraph() override;

  void Launch(cudaStream_t stream) const;

 private:
  explicit RecordedGraph(cudaGraphExec_t exec) : exec_(exec) {}

  const cudaGraphExec_t exec_;
};

}  // namespace lexico::kernels::cuda

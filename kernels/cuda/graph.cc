#include "kernels/cuda/graph.h"

#include "kernels/cuda/check.h"

namespace lexico::kernels::cuda {
namespace {

cudaGraph_t Capture(cudaStream_t stream, absl::FunctionRef<void()> ops) {
  cudaGraph_t graph = nullptr;
  // What other threads do with the GPU meanwhile is no part of it, and allowed.
  LEXICO_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  ops();
  LEXICO_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  return graph;
}

// Whether `exec` runs the ops of `graph` from here on: where both have the same kernels in the same
// order, however their arguments and grids differ.
bool Update(cudaGraphExec_t exec, cudaGraph_t graph) {
  cudaGraphExecUpdateResultInfo info;
  const cudaError_t error = cudaGraphExecUpdate(exec, graph, &info);
  if (error == cudaErrorGraphExecUpdateFailure) {
    cudaGetLastError();  // it is as it was
    return false;
  }
  LEXICO_CUDA_CHECK(error);
  return true;
}

}  // namespace

std::unique_ptr<Graph> RecordedGraph::Record(cudaStream_t stream, absl::FunctionRef<void()> ops,
                                             std::unique_ptr<Graph> old) {
  const cudaGraph_t graph = Capture(stream, ops);
  if (old != nullptr && !Update(static_cast<RecordedGraph&>(*old).exec_, graph)) old.reset();
  if (old == nullptr) {
    cudaGraphExec_t exec = nullptr;
    const cudaError_t error = cudaGraphInstantiate(&exec, graph, 0);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // an allocation that fails leaves the device as it was
    } else {
      LEXICO_CUDA_CHECK(error);
      old.reset(new RecordedGraph(exec));
    }
  }
  LEXICO_CUDA_CHECK(cudaGraphDestroy(graph));
  return old;
}

RecordedGraph::~RecordedGraph() { LEXICO_CUDA_CHECK(cudaGraphExecDestroy(exec_)); }

void RecordedGraph::Launch(cudaStream_t stream) const {
  LEXICO_CUDA_CHECK(cudaGraphLaunch(exec_, stream));
}

}  // namespace lexico::kernels::cuda

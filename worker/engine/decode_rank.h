// What one rank computes of a decode step (decode_step.h).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/api/dense_attention.h"
#include "kernels/api/growing_buffer.h"
#include "kernels/api/host_buffer.h"
#include "kernels/api/top_logits.h"
#include "worker/engine/forward_context.h"
#include "worker/engine/page_attention.h"
#include "worker/engine/step_arrays.h"
#include "worker/engine/step_graphs.h"
#include "worker/kv/session_kv.h"
#include "worker/model/sampler.h"

namespace lexico::worker {

// Keeps its working memory between steps. Thread-compatible: the rank's thread; what Run left may
// be read by another once it has returned.
class DecodeRank {
 public:
  explicit DecodeRank(ForwardContext* context)
      : context_(context),
        arrays_(context->stream),
        graphs_(context->records_steps ? context->stream.device().get() : nullptr) {}

  // Takes the memory of a device for steps of n sessions with n_pages pages together. A CPU's grows
  // by itself.
  absl::Status Reserve(int64_t n, int64_t n_pages);
  // What Reserve takes of a device.
  size_t BytesOfDevice(int64_t n, int64_t n_pages) const;

  // Computes the first pending token of each session and writes its row, which is not committed.
  // REQUIRES: as DecodeStep::Run.
  void Run(std::span<SessionKv* const> sessions, std::span<const kernels::RowDraw> draws,
           int n_top);

  // Of session i of the last Run: what was not finite of the rank's heads, if anything.
  std::optional<KvKind> non_finite(int64_t i) const { return non_finite_[i]; }
  // Fetches them from a device; valid until the next call or Run.
  std::span<const float> logits(int64_t i) const;
  // REQUIRES: the stream is a device's, the rank the first.
  TopRow top(int64_t i) const;
  // How the last Run was enqueued.
  StepLaunch launch() const { return launch_; }
  // Of the last Run, all sessions together; on a device 0, because ops are only enqueued.
  absl::Duration attention_time() const { return attention_time_; }

 private:
  // Neighbours of one layout, which share their calls.
  struct Group {
    const KvLayout* layout;
    int64_t first;
    int64_t n;
    SessionPages pages;
  };
  // What the host reads of a step, one block on the device and in host memory.
  struct Results {
    int32_t* non_finite;             // [n_layers, n]
    float* top;                      // [n, n_top], where finds_top(), as are these:
    int32_t* top_ids;                // [n, n_top]
    kernels::RowSummary* summaries;  // [n]
    size_t bytes;
  };
  // What a step computes with, in the stream's memory. [n, ...]
  struct Buffers {
    float* hidden;      // [n, hidden_dim]
    float* q;           // [n, n_heads, head_dim]
    float* k;           // [n, n_kv_heads, head_dim]
    float* v;           // [n, n_kv_heads, head_dim]
    float* attention;   // [n, n_heads, head_dim] of activation_type(), which no wider than F32
    float* logits;      // [n, vocab_size]
    float* partial[2];  // over windows, over codes: [n, n_heads, head_dim]
    float* partial_max[2];
    float* partial_sum[2];
    Results results;
  };

  // Best logits and draws: on a device, where sampling needs no others. All ranks have the same.
  bool finds_top() const { return context_->on_device() && context_->rank == 0; }
  size_t BytesOfArrays(int64_t n, int64_t n_pages) const;
  // Cuts buffers for n sessions from `base`, each aligned to 256 bytes; *floats: what they take.
  Buffers CutBuffers(float* base, int64_t n, int64_t* floats) const;
  void FindGroups(std::span<SessionKv* const> sessions);
  // Ids, positions and where windows and pages lie.
  void FillArrays(std::span<SessionKv* const> sessions, std::span<const kernels::RowDraw> draws);
  StepStructure Structure() const;
  // All of the step, from the arrays' way to the device to the results' way back.
  void Enqueue();
  void RunLayer(int layer);
  void Attend(const Group& group, int layer);
  void FindTop();
  void ReadResults();

  ForwardContext* const context_;
  absl::Duration attention_time_;
  int64_t n_ = 0;
  int n_top_ = 0;
  StepLaunch launch_ = StepLaunch::kOps;
  std::vector<Group> groups_;
  StepArrays arrays_;
  StepArray<int32_t> ids_;                 // [n]
  StepArray<int32_t> positions_;           // [n]
  StepArray<kernels::RowDraw> draws_;      // [n]
  StepArray<void*> k_rows_;                // [n_layers, n]
  StepArray<void*> v_rows_;                // [n_layers, n]
  StepArray<kernels::DenseRows> windows_;  // [n_layers, n]
  kernels::GrowingBuffer memory_;          // of buffers_
  Buffers buffers_ = {};
  // Of a device, in host memory.
  kernels::HostBuffer row_logits_;  // [vocab_size], of one session
  kernels::HostBuffer results_;     // what CutResults cuts
  Results CutResults(char* base, int64_t n, int n_top) const;
  std::vector<std::optional<KvKind>> non_finite_;  // [n]
  StepGraphs graphs_;                              // of all of the above
};

}  // namespace lexico::worker

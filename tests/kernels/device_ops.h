// Ops on any device, called with arguments in host memory: the tests state a property
// once and run it on every device (DeviceTest).
//
// On a GPU every array is copied there, outputs too, so that a place which the op does not write
// keeps what the test put there; then the op runs, and the outputs are copied back.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <span>

#include "kernels/api/demote_codes.h"
#include "kernels/api/dense_attention.h"
#include "kernels/api/dictionary.h"
#include "kernels/api/merge_partials.h"
#include "kernels/api/omp_encode.h"
#include "kernels/api/quantize_codes.h"
#include "kernels/api/reconstruct.h"
#include "kernels/api/sparse_attention.h"
#include "kernels/api/stream.h"

namespace lexico::tests {

class DeviceOps {
 public:
  // REQUIRES: the device is there (DeviceTest).
  explicit DeviceOps(const kernels::Stream& stream) : stream_(stream) {}

  // As the ops of the same names. Dictionaries are those of the CPU (code_fixtures.h).
  void SparseAttention(const kernels::SparseAttentionArgs& args) const;
  void Reconstruct(const kernels::ReconstructArgs& args) const;
  void OmpEncode(const kernels::OmpEncodeArgs& args) const;
  void DemoteCodes(const kernels::DemoteCodesArgs& args) const;
  // The same with a dictionary that a GPU reads as its file has it: args.dictionary, on the CPU,
  // was prepared from `rows`.
  void OmpEncode(const kernels::OmpEncodeArgs& args, const kernels::TensorView& rows) const;
  // Pages as they were, too, where the op does not write.
  void QuantizeCodes(const kernels::QuantizeCodesArgs& args) const;
  void DenseAttention(const kernels::DenseAttentionArgs& args) const;
  void PrefillAttention(const kernels::PrefillAttentionArgs& args) const;
  void MergePartials(std::span<const kernels::AttentionPart> parts,
                     const kernels::MutableTensorView& out) const;

 private:
  kernels::Stream stream_;
};

// The GPU of the tests, opened once: a context takes a second.
const absl::StatusOr<kernels::Stream>& GpuStream();

// A test of every device: its parameter. A GPU's are skipped, and say why, where there is none.
class DeviceTest : public testing::TestWithParam<kernels::DeviceKind> {
 protected:
  void SetUp() override;
  DeviceOps Ops(int threads = 1) const { return DeviceOps(StreamOf(threads)); }
  kernels::Stream stream() const { return StreamOf(1); }
  bool on_gpu() const { return GetParam() == kernels::DeviceKind::kCuda; }
  // A GPU's stream whose ops find that much workspace; the CPU's has no workspace.
  static DeviceOps OpsWithWorkspace(size_t bytes);

 private:
  kernels::Stream StreamOf(int threads) const;
};

#define LEXICO_TEST_ON_ALL_DEVICES(suite)                                                     \
  INSTANTIATE_TEST_SUITE_P(                                                                   \
      , suite,                                                                                \
      testing::Values(lexico::kernels::DeviceKind::kCpu, lexico::kernels::DeviceKind::kCuda), \
      [](const testing::TestParamInfo<lexico::kernels::DeviceKind>& parameter) {              \
        return parameter.param == lexico::kernels::DeviceKind::kCuda ? "Cuda" : "Cpu";        \
      })

}  // namespace lexico::tests

// Stands for this folder in a build without CUDA: no GPU can be opened, so no stream leads to the
// ops.
#include "kernels/cuda/ceilings.h"
#include "kernels/cuda/collective.h"
#include "kernels/cuda/demote_codes.h"
#include "kernels/cuda/dense_attention.h"
#include "kernels/cuda/dictionary.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/merge_partials.h"
#include "kernels/cuda/omp_encode.h"
#include "kernels/cuda/open_device.h"
#include "kernels/cuda/prefill_attention.h"
#include "kernels/cuda/quantize_codes.h"
#include "kernels/cuda/reconstruct.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/shift_down.h"
#include "kernels/cuda/sparse_attention.h"
#include "kernels/cuda/top_logits.h"
#include "kernels/cuda/update_atoms.h"
#include "proto/base/check.h"

namespace lexico::kernels::cuda {

absl::StatusOr<std::shared_ptr<Device>> OpenDevice(const CudaOptions& options) {
  return absl::UnavailableError("this build has no GPU code (LEXICO_CUDA=OFF, or no nvcc)");
}

std::shared_ptr<Device> OpenSibling(const Stream& stream) { LEXICO_UNREACHABLE(); }

absl::StatusOr<std::shared_ptr<Device>> OpenBeside(const Stream& stream, size_t workspace_bytes) {
  LEXICO_UNREACHABLE();
}

absl::StatusOr<std::shared_ptr<const PreparedDictionary>> PrepareDictionary(TensorView dictionary,
                                                                            const Stream& stream) {
  LEXICO_UNREACHABLE();
}

absl::StatusOr<std::shared_ptr<const PreparedDictionary>> PrepareRows(
    TensorView rows, const Stream& stream, std::shared_ptr<const PreparedDictionary> old) {
  LEXICO_UNREACHABLE();
}

absl::StatusOr<std::vector<std::shared_ptr<Communicator>>> MakeCommunicators(
    std::span<const Stream> streams) {
  LEXICO_UNREACHABLE();
}

GpuCeilings MeasureCeilings(const Stream& stream) { LEXICO_UNREACHABLE(); }

absl::StatusOr<std::shared_ptr<const PreparedMatrix>> PrepareMatrix(
    std::span<const TensorView> weights, const Stream& stream) {
  LEXICO_UNREACHABLE();
}

void MatMul(TensorView x, const PreparedMatrix& w, MutableTensorView y, bool accumulate,
            const Stream& stream) {
  LEXICO_UNREACHABLE();
}

void RmsNorm(TensorView x, TensorView weight, float epsilon, MutableTensorView y,
             const Stream& stream) {
  LEXICO_UNREACHABLE();
}

void RotateAndSplit(const RopeArgs& args, const Stream& stream) { LEXICO_UNREACHABLE(); }
void RotateAndStore(const RopeArgs& args, const StoreRowsArgs& rows, const Stream& stream) {
  LEXICO_UNREACHABLE();
}

void SwiGlu(TensorView gate_up, MutableTensorView y, const Stream& stream) { LEXICO_UNREACHABLE(); }

void Embed(TensorView table, std::span<const int32_t> ids, MutableTensorView y,
           const Stream& stream) {
  LEXICO_UNREACHABLE();
}

void Convert(TensorView from, MutableTensorView to, const Stream& stream) { LEXICO_UNREACHABLE(); }

void RoundToType(MutableTensorView x, DType type, int32_t* non_finite, const Stream& stream) {
  LEXICO_UNREACHABLE();
}

void StoreRows(const StoreRowsArgs& args, const Stream& stream) { LEXICO_UNREACHABLE(); }

void PackCodes(const PackCodesArgs& args, const Stream& stream) { LEXICO_UNREACHABLE(); }

void QuantizeCodes(const QuantizeCodesArgs& args, const Stream& stream) { LEXICO_UNREACHABLE(); }

void PackDense(const PackDenseArgs& args, const Stream& stream) { LEXICO_UNREACHABLE(); }

void UnpackDense(const UnpackDenseArgs& args, const Stream& stream) { LEXICO_UNREACHABLE(); }

void CopyBlocks(const void* const* from, void* const* to, int64_t n, size_t bytes,
                const Stream& stream) {
  LEXICO_UNREACHABLE();
}
void DenseAttention(const DenseAttentionArgs& args, const Stream& stream) { LEXICO_UNREACHABLE(); }

void MergePartials(std::span<const AttentionPart> parts, MutableTensorView out,
                   const Stream& stream) {
  LEXICO_UNREACHABLE();
}

void OmpEncode(const OmpEncodeArgs& args, const Stream& stream) { LEXICO_UNREACHABLE(); }

void PrefillAttention(const PrefillAttentionArgs& args, const Stream& stream) {
  LEXICO_UNREACHABLE();
}

void DemoteCodes(const DemoteCodesArgs& args, const Stream& stream) { LEXICO_UNREACHABLE(); }

void Reconstruct(const ReconstructArgs& args, const Stream& stream) { LEXICO_UNREACHABLE(); }

void ShiftDown(const ShiftDownArgs& args, const Stream& stream) { LEXICO_UNREACHABLE(); }
void TopLogits(const TopLogitsArgs& args, const Stream& stream) { LEXICO_UNREACHABLE(); }

void UpdateAtoms(const UpdateAtomsArgs& args, const Stream& stream) { LEXICO_UNREACHABLE(); }

void SparseAttention(const SparseAttentionArgs& args, const Stream& stream) {
  LEXICO_UNREACHABLE();
}

}  // namespace lexico::kernels::cuda

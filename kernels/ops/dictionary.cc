#include "kernels/api/dictionary.h"

#include <utility>

#include "kernels/cpu/dictionary.h"
#include "kernels/cuda/dictionary.h"
#include "proto/base/limits.h"

namespace lexico::kernels {

absl::StatusOr<std::shared_ptr<const PreparedDictionary>> PrepareDictionary(TensorView dictionary,
                                                                            const Stream& stream,
                                                                            size_t gram_bytes_max) {
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::PrepareDictionary(dictionary, stream, gram_bytes_max);
    case DeviceKind::kCuda:
      return cuda::PrepareDictionary(dictionary, stream);
  }
  LEXICO_UNREACHABLE();
}

absl::StatusOr<std::shared_ptr<const PreparedDictionary>> PrepareRows(
    TensorView rows, const Stream& stream, std::shared_ptr<const PreparedDictionary> old) {
  LEXICO_CHECK_EQ(rows.rank, 2);
  LEXICO_CHECK(rows.dtype == DType::kF32);
  LEXICO_CHECK_GE(rows.dim(0), int64_t{base::kAtomsMin});
  LEXICO_CHECK_LE(rows.dim(0), int64_t{base::kAtomsMax});
  LEXICO_CHECK_GE(rows.dim(1), int64_t{1});
  LEXICO_CHECK_LE(rows.dim(1), int64_t{base::kHeadDimMax});
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::PrepareRows(rows, stream);
    case DeviceKind::kCuda:
      return cuda::PrepareRows(rows, stream, std::move(old));
  }
  LEXICO_UNREACHABLE();
}

}  // namespace lexico::kernels

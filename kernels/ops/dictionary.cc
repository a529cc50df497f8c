#include "kernels/api/dictionary.h"

#include "kernels/cpu/dictionary.h"
#include "kernels/cuda/dictionary.h"

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

}  // namespace lexico::kernels

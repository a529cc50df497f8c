#include "kernels/api/dictionary.h"

#include "kernels/cpu/dictionary.h"

namespace lexico::kernels {

absl::StatusOr<std::shared_ptr<const PreparedDictionary>> PrepareDictionary(TensorView dictionary,
                                                                            const Stream& stream) {
  switch (stream.kind()) {
    case DeviceKind::kCpu:
      return cpu::PrepareDictionary(dictionary, stream);
    case DeviceKind::kCuda:
      break;
  }
  LEXICO_UNREACHABLE();
}

}  // namespace lexico::kernels

// Any bytes as a safetensors file: refused, or every view lies inside the bytes and has the size
// its shape says.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "worker/model/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using lexico::worker::ModelWeights;
  using lexico::worker::SafetensorsFile;
  const auto file =
      SafetensorsFile::FromBytes("fuzz", std::string(reinterpret_cast<const char*>(data), size));
  if (!file.ok()) return 0;
  size_t total = 0;
  uint64_t sum = 0;
  for (const auto& [name, tensor] : (*file)->tensors()) {
    total += tensor.bytes.size();
    for (const uint8_t byte : tensor.bytes) sum += byte;
  }
  if (total > size || sum > 255 * total) std::abort();
  const ModelWeights weights = ModelWeights::FromFile(*file);
  for (const std::string& name : weights.Names()) {
    const auto view = weights.Find(name, {2, 3});
    if (view.ok() && view->size_bytes() != (*file)->tensors().at(name).bytes.size()) std::abort();
  }
  return 0;
}

// Any text as config.json and generation_config.json, divided at the first NUL: refused, or a shape
// within the limits that the kernels are built for.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "proto/base/limits.h"
#include "worker/model/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace base = lexico::base;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t cut = text.find('\0');
  const auto config = lexico::worker::ParseModelConfig(
      "fuzz", text.substr(0, cut),
      cut == std::string_view::npos ? std::string_view() : text.substr(cut + 1));
  if (!config.ok()) return 0;
  const bool sound = config->n_layers >= 1 && config->n_layers <= base::kLayersMax &&
                     config->n_kv_heads >= 1 && config->n_heads % config->n_kv_heads == 0 &&
                     config->head_dim >= 2 && config->head_dim % 2 == 0 &&
                     config->head_dim <= base::kHeadDimMax && config->vocab_size >= 1 &&
                     config->vocab_size <= base::kVocabMax && config->rope.theta >= 1;
  if (!sound) std::abort();
  for (const double f : lexico::worker::RopeInverseFrequencies(*config)) {
    if (!(f >= 0 && f <= 1)) std::abort();
  }
  return 0;
}

// Writes a safetensors file whose bytes are made while it is written (format:
// worker/model/safetensors.h).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace lexico::random_model {

struct FileTensor {
  std::string name;
  const char* dtype;  // "BF16" or "F16", two bytes an element
  std::vector<int64_t> shape;
  // Elements first .. first + values.size() - 1, whole rows of the last dimension. Called by
  // several threads at once.
  std::function<void(int64_t first, std::span<uint16_t> values)> fill;

  int64_t n_elements() const;
};

// `threads` threads make and write pieces of about 8 MiB. `progress` hears how many bytes are
// written since the last call, of any thread. Errors name the path and the system's words; the file
// is removed then.
absl::Status WriteTensorFile(const std::string& path, const std::vector<FileTensor>& tensors,
                             const std::map<std::string, std::string>& metadata, int threads,
                             const std::function<void(int64_t bytes)>& progress);

}  // namespace lexico::random_model

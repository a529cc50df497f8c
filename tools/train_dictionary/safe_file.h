// Files that are whole or not there: written beside their place, then renamed.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace lexico::train_dictionary {

// Texts by name, in the order of the file.
using Facts = std::vector<std::pair<std::string, std::string>>;

struct OutTensor {
  std::string name;
  const char* dtype;  // as safetensors spells it
  std::vector<int64_t> shape;
  std::span<const uint8_t> bytes;
};

// The bytes of a safetensors file (format: worker/model/safetensors.h).
std::string SafetensorsBytes(const std::vector<OutTensor>& tensors, const Facts& metadata);

// Puts `bytes` at `path`, over what is there. ResourceExhausted: no room, Unavailable: anything
// else; the message names the file, the system's words and `flag` as the remedy, and what was at
// `path` before is still there.
absl::Status WriteWhole(const std::string& path, const std::string& bytes, const char* flag);

// The same errors, before hours of work: the folder must be there and have room for `bytes`.
absl::Status CheckRoom(const std::string& path, int64_t bytes, const char* flag);

}  // namespace lexico::train_dictionary

// The grammar of a safetensors header; safetensors.h describes the format.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace lexico::worker {

struct SafetensorsEntry {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // byte offsets from the end of the header
  uint64_t end = 0;
};

struct SafetensorsHeader {
  // In order of `begin`. Together they cover [0, data_bytes) without gap or overlap.
  std::vector<SafetensorsEntry> entries;
  std::map<std::string, std::string, std::less<>> metadata;
};

// Bits of an element, or 0 for a dtype the format does not know.
int SafetensorsDTypeBits(std::string_view dtype);

// Parses and checks a header whose tensors must fill `data_bytes`. Time and memory are linear in
// the text (and n log n in the number of tensors). DataLoss names the tensor and both values, but
// not the file: the caller adds it.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view text,
                                                         uint64_t data_bytes);

}  // namespace lexico::worker

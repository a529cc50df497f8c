// Safetensors files for tests: good ones, and ones whose header is written by hand.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lexico::tests {

// The bytes of a file with this header text and data.
inline std::string SafetensorsBytes(std::string_view header, std::string_view data) {
  const uint64_t n = header.size();
  return std::string(reinterpret_cast<const char*>(&n), sizeof n).append(header).append(data);
}

// Collects tensors and writes them in the order added.
class SafetensorsWriter {
 public:
  SafetensorsWriter& Add(std::string_view name, std::string_view dtype, std::vector<int64_t> shape,
                         std::string_view bytes) {
    fields_.push_back(fmt::format(R"("{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                                  name, dtype, fmt::join(shape, ","), data_.size(),
                                  data_.size() + bytes.size()));
    data_ += bytes;
    return *this;
  }
  SafetensorsWriter& AddF32(std::string_view name, std::vector<int64_t> shape,
                            const std::vector<float>& values) {
    return Add(name, "F32", std::move(shape),
               {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
  }
  SafetensorsWriter& Metadata(std::string_view key, std::string_view value) {
    metadata_.push_back(fmt::format(R"("{}":"{}")", key, value));
    return *this;
  }
  std::string Bytes() const {
    std::vector<std::string> fields = fields_;
    if (!metadata_.empty()) {
      fields.insert(fields.begin(),
                    fmt::format(R"("__metadata__":{{{}}})", fmt::join(metadata_, ",")));
    }
    std::string header = fmt::format("{{{}}}", fmt::join(fields, ","));
    header.append((8 - header.size() % 8) % 8, ' ');
    return SafetensorsBytes(header, data_);
  }

 private:
  std::vector<std::string> fields_;
  std::vector<std::string> metadata_;
  std::string data_;
};

}  // namespace lexico::tests

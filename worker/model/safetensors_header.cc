#include "worker/model/safetensors_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "absl/status/status.h"
#include "proto/base/limits.h"
#include "proto/base/status.h"

namespace lexico::worker {
namespace {

using Json = nlohmann::json;

// A name of the file for a message: printable ASCII, cut.
std::string Printable(std::string_view name) {
  constexpr size_t kBytesMax = 100;
  std::string text;
  for (const char c : name.substr(0, kBytesMax)) text += (c >= 0x20 && c < 0x7f) ? c : '?';
  return name.size() > kBytesMax ? text + "..." : text;
}

// Receives the parser's events and accepts nothing but the format's grammar, so that no tree is
// ever built: depth is bounded by the states, memory by the text.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  explicit HeaderReader(SafetensorsHeader* header) : header_(header) {}

  const std::string& problem() const { return problem_; }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_integer(int64_t value) override {
    return Unexpected(fmt::format("the number {}", value));
  }
  bool number_float(double, const std::string& text) override {
    return Unexpected(fmt::format("the number {}", Printable(text)));
  }
  bool binary(Json::binary_t&) override { return Unexpected("binary"); }
  bool number_unsigned(uint64_t value) override;
  bool string(std::string& value) override;
  bool start_object(size_t) override;
  bool key(std::string& name) override;
  bool end_object() override;
  bool start_array(size_t) override;
  bool end_array() override;
  bool parse_error(size_t position, const std::string&, const Json::exception&) override {
    return Problem(fmt::format("not JSON at byte {} of the header", position));
  }

 private:
  enum class State {
    kStart,       // before {
    kNames,       // in the outer object
    kEntry,       // after a tensor's name: its object must follow
    kMetadata,    // after "__metadata__": its object must follow
    kFields,      // in a tensor's object
    kDType,       // after "dtype"
    kShape,       // after "shape", or in its array
    kOffsets,     // after "data_offsets", or in its array
    kMetaNames,   // in the metadata object
    kMetaValues,  // after a metadata name
    kEnd,
  };

  bool Problem(std::string text) {
    if (problem_.empty()) problem_ = std::move(text);
    return false;
  }
  bool Unexpected(std::string_view what) {
    return Problem(fmt::format("{}unexpected {}", Where(), what));
  }
  std::string Where() const {
    return entry_.name.empty() ? "" : fmt::format("tensor {}: ", Printable(entry_.name));
  }
  bool FinishEntry();

  SafetensorsHeader* header_;
  State state_ = State::kStart;
  SafetensorsEntry entry_;
  std::vector<uint64_t> offsets_;
  bool in_array_ = false;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  bool has_metadata_ = false;
  std::string meta_name_;
  std::unordered_set<std::string> names_;
  std::string problem_;
};

bool HeaderReader::number_unsigned(uint64_t value) {
  if (!in_array_) return Unexpected(fmt::format("the number {}", value));
  if (state_ == State::kOffsets) {
    if (offsets_.size() == 2) return Problem(Where() + "data_offsets has more than 2 numbers");
    offsets_.push_back(value);
    return true;
  }
  if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return Problem(fmt::format("{}dimension {} is too large", Where(), value));
  }
  if (entry_.shape.size() == base::kTensorRankMax) {
    return Problem(fmt::format("{}more than {} dimensions", Where(), base::kTensorRankMax));
  }
  entry_.shape.push_back(static_cast<int64_t>(value));
  return true;
}

bool HeaderReader::string(std::string& value) {
  if (state_ == State::kDType) {
    if (SafetensorsDTypeBits(value) == 0) {
      return Problem(fmt::format("{}unknown dtype {}", Where(), Printable(value)));
    }
    entry_.dtype = value;
    state_ = State::kFields;
    return true;
  }
  if (state_ == State::kMetaValues) {
    if (!header_->metadata.emplace(meta_name_, value).second) {
      return Problem(fmt::format("__metadata__ names {} twice", Printable(meta_name_)));
    }
    state_ = State::kMetaNames;
    return true;
  }
  return Unexpected("a string");
}

bool HeaderReader::start_object(size_t) {
  switch (state_) {
    case State::kStart:
      state_ = State::kNames;
      return true;
    case State::kEntry:
      state_ = State::kFields;
      return true;
    case State::kMetadata:
      state_ = State::kMetaNames;
      return true;
    default:
      return Unexpected("an object");
  }
}

bool HeaderReader::key(std::string& name) {
  switch (state_) {
    case State::kNames:
      if (name == "__metadata__") {
        if (has_metadata_) return Problem("__metadata__ appears twice");
        has_metadata_ = true;
        state_ = State::kMetadata;
        return true;
      }
      if (name.empty()) return Problem("a tensor has an empty name");
      if (!names_.insert(name).second) {
        return Problem(fmt::format("tensor {} appears twice", Printable(name)));
      }
      entry_ = SafetensorsEntry{.name = name};
      offsets_.clear();
      has_dtype_ = has_shape_ = has_offsets_ = false;
      state_ = State::kEntry;
      return true;
    case State::kMetaNames:
      meta_name_ = name;
      state_ = State::kMetaValues;
      return true;
    case State::kFields: {
      bool* seen = name == "dtype"          ? &has_dtype_
                   : name == "shape"        ? &has_shape_
                   : name == "data_offsets" ? &has_offsets_
                                            : nullptr;
      if (seen == nullptr) {
        return Problem(fmt::format("{}unknown field {}", Where(), Printable(name)));
      }
      if (*seen) return Problem(fmt::format("{}{} appears twice", Where(), name));
      *seen = true;
      state_ = seen == &has_dtype_   ? State::kDType
               : seen == &has_shape_ ? State::kShape
                                     : State::kOffsets;
      return true;
    }
    default:
      return Unexpected("a name");
  }
}

bool HeaderReader::end_object() {
  switch (state_) {
    case State::kNames:
      state_ = State::kEnd;
      return true;
    case State::kMetaNames:
      state_ = State::kNames;
      return true;
    case State::kFields:
      state_ = State::kNames;
      return FinishEntry();
    default:
      return Unexpected("end of an object");
  }
}

bool HeaderReader::start_array(size_t) {
  if (in_array_ || (state_ != State::kShape && state_ != State::kOffsets)) {
    return Unexpected("an array");
  }
  in_array_ = true;
  return true;
}

bool HeaderReader::end_array() {
  in_array_ = false;
  state_ = State::kFields;
  return true;
}

bool HeaderReader::FinishEntry() {
  if (!has_dtype_) return Problem(Where() + "dtype is missing");
  if (!has_shape_) return Problem(Where() + "shape is missing");
  if (!has_offsets_) return Problem(Where() + "data_offsets is missing");
  if (offsets_.size() != 2) {
    return Problem(
        fmt::format("{}data_offsets has {} numbers, must have 2", Where(), offsets_.size()));
  }
  entry_.begin = offsets_[0];
  entry_.end = offsets_[1];
  header_->entries.push_back(std::move(entry_));
  entry_ = SafetensorsEntry{};
  return true;
}

// Bytes of the elements, or an error when the product overflows or is not whole bytes.
absl::StatusOr<uint64_t> ShapeBytes(const SafetensorsEntry& entry) {
  uint64_t n = static_cast<uint64_t>(SafetensorsDTypeBits(entry.dtype));
  for (const int64_t dim : entry.shape) {
    if (__builtin_mul_overflow(n, static_cast<uint64_t>(dim), &n)) {
      return absl::DataLossError(fmt::format("tensor {}: the size of its shape [{}] overflows",
                                             Printable(entry.name), fmt::join(entry.shape, ", ")));
    }
  }
  if (n % 8 != 0) {
    return absl::DataLossError(fmt::format("tensor {}: shape [{}] of {} is not whole bytes",
                                           Printable(entry.name), fmt::join(entry.shape, ", "),
                                           entry.dtype));
  }
  return n / 8;
}

absl::Status CheckLayout(const std::vector<SafetensorsEntry>& entries, uint64_t data_bytes) {
  uint64_t expected_begin = 0;
  for (const SafetensorsEntry& entry : entries) {
    const std::string name = Printable(entry.name);
    if (entry.end < entry.begin) {
      return absl::DataLossError(fmt::format("tensor {}: data_offsets end {} is before begin {}",
                                             name, entry.end, entry.begin));
    }
    if (entry.end > data_bytes) {
      return absl::DataLossError(
          fmt::format("tensor {}: ends at byte {} of the data, but the file holds {} bytes; it may "
                      "be truncated, fetch it again",
                      name, entry.end, data_bytes));
    }
    if (entry.begin != expected_begin) {
      return absl::DataLossError(
          fmt::format("tensor {}: begins at byte {} of the data, but the tensor before it ends at "
                      "{}; tensors must neither overlap nor leave gaps",
                      name, entry.begin, expected_begin));
    }
    LEXICO_ASSIGN_OR_RETURN(const uint64_t bytes, ShapeBytes(entry));
    if (bytes != entry.end - entry.begin) {
      return absl::DataLossError(
          fmt::format("tensor {}: {} [{}] takes {} bytes, but data_offsets spans {}", name,
                      entry.dtype, fmt::join(entry.shape, ", "), bytes, entry.end - entry.begin));
    }
    expected_begin = entry.end;
  }
  if (expected_begin != data_bytes) {
    return absl::DataLossError(
        fmt::format("the tensors end at byte {} of the data, but the file holds {} bytes",
                    expected_begin, data_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

int SafetensorsDTypeBits(std::string_view dtype) {
  // The names of the format (safetensors/src/tensor.rs, enum Dtype).
  static constexpr struct {
    std::string_view name;
    int bits;
  } kDTypes[] = {
      {"BF16", 16}, {"F16", 16},    {"F32", 32},    {"F64", 64},    {"I8", 8},
      {"U8", 8},    {"I16", 16},    {"U16", 16},    {"I32", 32},    {"U32", 32},
      {"I64", 64},  {"U64", 64},    {"BOOL", 8},    {"F8_E4M3", 8}, {"F8_E5M2", 8},
      {"C64", 64},  {"F8_E8M0", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4},
  };
  for (const auto& known : kDTypes) {
    if (known.name == dtype) return known.bits;
  }
  return 0;
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view text,
                                                         uint64_t data_bytes) {
  SafetensorsHeader header;
  HeaderReader reader(&header);
  bool parsed = false;
  try {
    parsed = Json::sax_parse(text.begin(), text.end(), &reader);
  } catch (const std::exception& error) {
    return absl::DataLossError(fmt::format("not JSON: {}", error.what()));
  }
  if (!parsed) return absl::DataLossError(reader.problem());
  std::sort(header.entries.begin(), header.entries.end(), [](const auto& a, const auto& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  LEXICO_RETURN_IF_ERROR(CheckLayout(header.entries, data_bytes));
  return header;
}

}  // namespace lexico::worker

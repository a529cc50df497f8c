// Hash containers of strings that can be asked with a std::string_view without a copy. (Debian's
// Abseil has a string_view of its own, so its default string hash does not take the standard one.)
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"

namespace lexico::worker {

struct StringViewHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

template <typename Value>
using StringMap = absl::flat_hash_map<std::string, Value, StringViewHash, std::equal_to<>>;
using HashedStrings = absl::flat_hash_set<std::string, StringViewHash, std::equal_to<>>;

}  // namespace lexico::worker

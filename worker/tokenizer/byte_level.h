// The byte-level alphabet of GPT-2: every byte is written as one printable character, so that a
// vocabulary of strings can hold any bytes. Printable Latin-1 bytes stand for themselves, the other
// 68 follow from U+0100 on. (Radford et al. 2019, encoder.py; reimplemented from that rule.)
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace lexico::worker {

// Appends the characters of `bytes` (any bytes), 1 or 2 bytes of UTF-8 each.
void AppendByteLevel(std::string_view bytes, std::string* out);

// The byte that a character stands for, if it is one of the 256.
std::optional<uint8_t> ByteLevelToByte(char32_t c);

}  // namespace lexico::worker

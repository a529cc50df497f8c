#include "worker/tokenizer/byte_level.h"

#include <array>

namespace lexico::worker {
namespace {

constexpr bool StandsForItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Utf8Char {
  uint8_t size;  // 1 or 2
  char bytes[2];
};

struct Tables {
  std::array<char16_t, 256> to_char{};
  std::array<Utf8Char, 256> to_utf8{};
  std::array<int16_t, 0x144> to_byte{};  // -1: not of the alphabet
};

constexpr Tables MakeTables() {
  Tables tables;
  for (auto& byte : tables.to_byte) byte = -1;
  char16_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const char16_t c = StandsForItself(byte) ? static_cast<char16_t>(byte) : next++;
    tables.to_char[static_cast<size_t>(byte)] = c;
    tables.to_utf8[static_cast<size_t>(byte)] =
        c < 0x80
            ? Utf8Char{1, {static_cast<char>(c), 0}}
            : Utf8Char{2, {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))}};
    tables.to_byte[c] = static_cast<int16_t>(byte);
  }
  return tables;
}

constexpr Tables kTables = MakeTables();
static_assert(kTables.to_char[' '] == 0x120);
static_assert(kTables.to_byte[0x143] == 0xAD);

}  // namespace

void AppendByteLevel(std::string_view bytes, std::string* out) {
  size_t end = out->size();
  out->resize(end + 2 * bytes.size());  // the most it can be
  char* const data = out->data();
  for (const char byte : bytes) {
    const Utf8Char& c = kTables.to_utf8[static_cast<uint8_t>(byte)];
    data[end] = c.bytes[0];
    data[end + 1] = c.bytes[1];  // overwritten by the next when it has one byte
    end += c.size;
  }
  out->resize(end);
}

std::optional<uint8_t> ByteLevelToByte(char32_t c) {
  if (c >= kTables.to_byte.size() || kTables.to_byte[c] < 0) return std::nullopt;
  return static_cast<uint8_t>(kTables.to_byte[c]);
}

}  // namespace lexico::worker

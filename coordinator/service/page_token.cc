#include "coordinator/service/page_token.h"

#include <fmt/format.h>

#include <optional>

#include "proto/base/bytes.h"
#include "proto/base/hash.h"

namespace lexico::coord {
namespace {

constexpr size_t kCrcDigits = 8;

std::optional<int> HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return std::nullopt;
}

}  // namespace

std::string MakePageToken(std::string_view tenant, std::string_view last_session_id) {
  base::ByteWriter bytes;
  bytes.WriteString(tenant);
  bytes.WriteString(last_session_id);
  std::string token = fmt::format("{:08x}", base::Crc32c(base::AsBytes(bytes.buffer())));
  for (const char c : last_session_id)
    token += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return token;
}

absl::StatusOr<std::string> ParsePageToken(std::string_view tenant, std::string_view token) {
  std::string id;
  for (size_t i = kCrcDigits; i + 1 < token.size(); i += 2) {
    const auto high = HexValue(token[i]);
    const auto low = HexValue(token[i + 1]);
    if (!high.has_value() || !low.has_value()) break;
    id += static_cast<char>(*high * 16 + *low);
  }
  if (id.empty() || MakePageToken(tenant, id) != token) {
    return absl::InvalidArgumentError(
        "page_token is none of a ListSessions reply to this tenant; begin again without one");
  }
  return id;
}

}  // namespace lexico::coord

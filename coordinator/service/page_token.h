// ListSessions' page tokens: where the last page ended, opaque to clients.
//
// 8 hexadecimal digits of a CRC-32C over the tenant and the id, then the id in hexadecimal. The
// checksum is no secret; it keeps typing errors, truncations and another tenant's tokens out.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace lexico::coord {

std::string MakePageToken(std::string_view tenant, std::string_view last_session_id);

// The session id to go on after. InvalidArgument for anything MakePageToken did not return for this
// tenant.
absl::StatusOr<std::string> ParsePageToken(std::string_view tenant, std::string_view token);

}  // namespace lexico::coord

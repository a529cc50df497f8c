#include "cache_store/transfer/socket.h"

#include <fmt/format.h>

namespace lexico::store {

absl::StatusOr<std::pair<std::string, std::string>> SplitAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  const bool has_port = colon != std::string::npos && colon + 1 < address.size() &&
                        address.find_first_not_of("0123456789", colon + 1) == std::string::npos;
  if (!has_port || colon == 0) {
    return absl::InvalidArgumentError(
        fmt::format("address \"{}\" is not host:port, as in 127.0.0.1:50054", address));
  }
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  return std::pair(std::move(host), address.substr(colon + 1));
}

}  // namespace lexico::store

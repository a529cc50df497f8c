// The command line of lexico-cache-store.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "cache_store/server/store_server.h"

namespace lexico::store {

struct StoreOptions {
  StoreServerOptions server;
  std::string log_level = "info";
};

// Cancelled with the text to print for --help and --version; InvalidArgument with what is wrong and
// the allowed values.
absl::StatusOr<StoreOptions> ParseStoreOptions(int argc, const char* const* argv);

}  // namespace lexico::store

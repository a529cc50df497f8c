#include "cache_store/options.h"

#include <fmt/format.h>

#include "proto/base/options.h"
#include "proto/base/status.h"

namespace lexico::store {
namespace {

// Below, a tier could not hold the pages of one short document; segments have at least 1 MiB.
constexpr size_t kHostBytesMin = 1u << 20;
constexpr size_t kDiskBytesMin = 64u << 20;

absl::Status ParseTierBytes(const char* flag, const std::string& text, size_t min,
                            uint64_t* bytes) {
  size_t value = 0;
  LEXICO_RETURN_IF_ERROR(base::Annotate(base::ParseByteSize(text, &value), flag));
  if (value < min) {
    return absl::InvalidArgumentError(
        fmt::format("{} is {} bytes, at least {} are needed", flag, value, min));
  }
  *bytes = value;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<StoreOptions> ParseStoreOptions(int argc, const char* const* argv) {
  StoreOptions options;
  StoreServerOptions& server = options.server;
  server.metrics_address = "127.0.0.1:9092";
  std::string host_bytes = "1GiB";
  std::string disk_bytes = "16GiB";
  std::string reserve_bytes = "64MiB";
  std::string scrub_bytes = "4MiB";

  CLI::App app(
      "Keeps the pages and manifests of sessions in host memory and on disk, and serves them to "
      "workers. Prints 'ready grpc=HOST:PORT bulk=PORT metrics=PORT' when it serves; SIGTERM ends "
      "it. What it acknowledged is on disk.",
      "lexico-cache-store");
  app.add_option("--address", server.address, "gRPC address, host:port; port 0 picks one")
      ->capture_default_str();
  app.add_option("--bulk_address", server.bulk_address,
                 "address of the bulk plane, on which pages travel unencrypted")
      ->capture_default_str();
  app.add_option("--metrics_address", server.metrics_address,
                 "address of GET /metrics; '' serves none")
      ->capture_default_str();
  app.add_option("--data_dir", server.store.data_dir,
                 "folder of the disk tier; without it pages live in memory only and do not survive "
                 "a restart");
  app.add_option("--host_bytes", host_bytes, "memory for pages, as in 512MiB")
      ->capture_default_str();
  app.add_option("--disk_bytes", disk_bytes,
                 "size of all segment files; three quarters of it may be live pages")
      ->capture_default_str();
  app.add_option("--disk_reserve_bytes", reserve_bytes,
                 "what stays free on the file system for the index")
      ->capture_default_str();
  app.add_option("--scrub_bytes_per_s", scrub_bytes,
                 "how fast pages on the disk are read again and verified in the background; 0: not "
                 "at all")
      ->capture_default_str();
  app.add_flag("--rebuild_index", server.store.rebuild_index,
               "make the index of --data_dir anew from what can be read of it and from the "
               "segments, which are all read; the old index is kept aside");
  app.add_option("--tls_certificate", server.tls.certificate_file,
                 "PEM certificate of the gRPC server");
  app.add_option("--tls_key", server.tls.key_file, "PEM key of the certificate");
  app.add_option("--tls_ca", server.tls.ca_file,
                 "PEM certificates that sign clients; with it, clients must show one");
  app.add_option("--log_level", options.log_level, "trace, debug, info, warning, error or off")
      ->capture_default_str();
  LEXICO_RETURN_IF_ERROR(base::ParseCommandLine(app, argc, argv));

  LEXICO_RETURN_IF_ERROR(
      base::CheckAddress("--address", server.address, base::AddressUse::kListen));
  LEXICO_RETURN_IF_ERROR(
      base::CheckAddress("--bulk_address", server.bulk_address, base::AddressUse::kListen));
  if (!server.metrics_address.empty()) {
    LEXICO_RETURN_IF_ERROR(
        base::CheckAddress("--metrics_address", server.metrics_address, base::AddressUse::kListen));
  }
  if (server.store.rebuild_index && server.store.data_dir.empty()) {
    return absl::InvalidArgumentError("--rebuild_index needs --data_dir: whose index it is");
  }
  LEXICO_RETURN_IF_ERROR(
      ParseTierBytes("--host_bytes", host_bytes, kHostBytesMin, &server.store.host_bytes));
  LEXICO_RETURN_IF_ERROR(
      ParseTierBytes("--disk_bytes", disk_bytes, kDiskBytesMin, &server.store.disk_bytes));
  LEXICO_RETURN_IF_ERROR(
      ParseTierBytes("--disk_reserve_bytes", reserve_bytes, 0, &server.store.reserve_bytes));
  size_t scrub_bytes_per_s = 0;
  LEXICO_RETURN_IF_ERROR(
      base::Annotate(base::ParseByteSize(scrub_bytes, &scrub_bytes_per_s), "--scrub_bytes_per_s"));
  server.scrub_bytes_per_s = scrub_bytes_per_s;
  return options;
}

}  // namespace lexico::store

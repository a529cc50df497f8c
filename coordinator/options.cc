#include "coordinator/options.h"

#include "proto/base/options.h"
#include "proto/base/profile.h"
#include "proto/base/status.h"

namespace lexico::coord {

absl::StatusOr<CoordinatorOptions> ParseCoordinatorOptions(int argc, const char* const* argv) {
  CoordinatorOptions options;
  AdmissionLimits& admission = options.cluster.admission;
  int64_t lease_ms = absl::ToInt64Milliseconds(options.cluster.lease);
  int64_t drain_ms = absl::ToInt64Milliseconds(options.drain);
  CLI::App app(
      "lexico-coordinator: the only address a client needs. It knows which worker holds which "
      "session,\nroutes calls there, and moves sessions when workers come and go.",
      "lexico-coordinator");
  app.add_option("--address", options.address, "Serve gRPC here; port 0 picks one")
      ->capture_default_str();
  app.add_option("--metrics_address", options.metrics_address,
                 "Serve GET /metrics here; empty for none")
      ->capture_default_str();
  app.add_option("--data_dir", options.data_dir,
                 "Folder of the journal; without it a restarted coordinator knows no session");
  app.add_option("--store", options.store,
                 "Cache store, host:port; with it sessions are deleted there without a worker, and "
                 "orphans can be listed");
  app.add_option("--lease_ms", lease_ms, "A worker unheard of for this long is lost")
      ->check(CLI::Range(100, 600000))
      ->capture_default_str();
  app.add_option("--calls_max", admission.calls_max, "Append and Generate calls in flight, in all")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--worker_calls_max", admission.worker_calls_max,
                 "The same on one worker: running there or in its queue")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--tenant_calls_max", admission.tenant_calls_max,
                 "The same of one tenant; 0 for no bound of its own")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  app.add_option("--min_profile", options.cluster.min_profile,
                 "Sessions that do not say otherwise may be demoted to this profile, where it is "
                 "smaller than\ntheirs, when a worker's memory is short; empty: they may not");
  app.add_option("--drain_ms", drain_ms, "At SIGTERM running calls have this long to end")
      ->check(CLI::Range(0, 3600000))
      ->capture_default_str();
  app.add_option("--log_level", options.log_level, "trace, debug, info, warning, error or off")
      ->check(CLI::IsMember({"trace", "debug", "info", "warning", "error", "off"}))
      ->capture_default_str();
  app.add_option("--tls_certificate", options.tls.certificate_file, "PEM file; with a key: TLS");
  app.add_option("--tls_key", options.tls.key_file, "PEM file of the certificate's key");
  app.add_option("--tls_ca", options.tls.ca_file,
                 "PEM file; peers must show a certificate signed by it");
  LEXICO_RETURN_IF_ERROR(base::ParseCommandLine(app, argc, argv));
  if (!options.cluster.min_profile.empty()) {
    const absl::Status known = base::ParseProfile(options.cluster.min_profile).status();
    if (!known.ok()) {
      return absl::InvalidArgumentError("--min_profile: " + std::string(known.message()));
    }
  }
  LEXICO_RETURN_IF_ERROR(
      base::CheckAddress("--address", options.address, base::AddressUse::kListen));
  if (!options.store.empty()) {
    LEXICO_RETURN_IF_ERROR(
        base::CheckAddress("--store", options.store, base::AddressUse::kConnect));
  }
  if (!options.metrics_address.empty()) {
    LEXICO_RETURN_IF_ERROR(base::CheckAddress("--metrics_address", options.metrics_address,
                                              base::AddressUse::kListen));
  }
  options.cluster.lease = absl::Milliseconds(lease_ms);
  options.drain = absl::Milliseconds(drain_ms);
  options.cluster.tls = options.tls;
  return options;
}

}  // namespace lexico::coord

// lexico store status, verify, orphans.
#include <fmt/format.h>

#include "absl/time/clock.h"
#include "proto/base/options.h"
#include "proto/base/status.h"
#include "proto/rpc/timestamp.h"
#include "tools/cli/client.h"
#include "tools/cli/command.h"
#include "tools/cli/json.h"
#include "tools/cli/text_output.h"

namespace lexico::cli {
namespace {

struct OrphansOptions {
  // A session that was written this recently may be of a coordinator that just starts, or of a
  // worker that is about to register.
  double older_than_s = 3600;
  bool deletes = false;
};

absl::StatusOr<std::vector<v1::Orphan>> FindOrphans(const Client& client,
                                                    absl::Duration older_than) {
  std::vector<v1::Orphan> orphans;
  const absl::Time newest = absl::Now() - older_than;
  v1::ListOrphansRequest request;
  do {
    LEXICO_ASSIGN_OR_RETURN(const v1::ListOrphansResponse page,
                            client.Call(&v1::Admin::Stub::ListOrphans, request));
    for (const v1::Orphan& orphan : page.orphans()) {
      if (rpc::TimeFromProto(orphan.update_time()) <= newest) orphans.push_back(orphan);
    }
    request.set_start_after(page.next_start_after());
  } while (!request.start_after().empty());
  return orphans;
}

absl::Status DeleteOne(const Client& client, const v1::Orphan& orphan) {
  v1::DeleteOrphanRequest request;
  request.set_session_id(orphan.session_id());
  request.set_epoch(orphan.epoch());
  if (orphan.has_create_time()) *request.mutable_create_time() = orphan.create_time();
  return client.Call(&v1::Admin::Stub::DeleteOrphan, request).status();
}

std::string Text(const google::protobuf::Timestamp& stamp) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S", rpc::TimeFromProto(stamp), absl::UTCTimeZone());
}

void Print(const std::vector<v1::Orphan>& orphans) {
  std::vector<std::vector<std::string>> rows;
  for (const v1::Orphan& orphan : orphans) {
    rows.push_back({orphan.session_id(), orphan.tenant().empty() ? "-" : orphan.tenant(),
                    HumanCount(orphan.n_tokens()), HumanCount(orphan.n_pages()),
                    orphan.has_create_time() ? Text(orphan.create_time()) : "-",
                    Text(orphan.update_time())});
  }
  fmt::print(
      "{}",
      FormatTable({"SESSION", "TENANT", "TOKENS", "PAGES", "CREATED (UTC)", "STORED (UTC)"}, rows));
}

absl::Status Orphans(const Globals& globals, const OrphansOptions& options) {
  LEXICO_ASSIGN_OR_RETURN(const Client client, Client::Connect(globals));
  LEXICO_ASSIGN_OR_RETURN(const std::vector<v1::Orphan> orphans,
                          FindOrphans(client, absl::Seconds(options.older_than_s)));
  if (options.deletes) {
    for (const v1::Orphan& orphan : orphans) {
      LEXICO_RETURN_IF_ERROR(DeleteOne(client, orphan));
    }
  }
  if (globals.json) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const v1::Orphan& orphan : orphans) list.push_back(ToJson(orphan));
    PrintJson({{"orphans", std::move(list)}, {"deleted", options.deletes}});
  } else if (orphans.empty()) {
    fmt::print("no orphans\n");
  } else {
    Print(orphans);
    if (options.deletes) fmt::print("deleted {} from the store\n", orphans.size());
  }
  return absl::OkStatus();
}

std::string Amount(uint64_t bytes) { return base::HumanBytes(static_cast<double>(bytes)); }

absl::Status StoreStatus(const Globals& globals, const NoOptions&) {
  LEXICO_ASSIGN_OR_RETURN(const Client client, Client::Connect(globals));
  LEXICO_ASSIGN_OR_RETURN(const v1::StoreStatus status,
                          client.Call(&v1::Admin::Stub::GetStoreStatus, v1::GetStatusRequest()));
  if (globals.json) {
    PrintJson(ToJson(status));
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows;
  for (const v1::TierStatus& tier : status.tiers()) {
    rows.push_back({tier.tier(), Amount(tier.bytes()), Amount(tier.bytes_max()),
                    HumanCount(static_cast<int64_t>(tier.n_pages()))});
  }
  fmt::print("{}", FormatTable({"TIER", "HELD", "LIMIT", "PAGES"}, rows));
  fmt::print("sessions: {}\ndamaged pages found: {}\nall pages verified: {}\nversion: {}\n",
             status.n_manifests(), status.n_checksum_failures(),
             status.has_scrub_time() ? Text(status.scrub_time()) + " UTC" : "not since its start",
             status.version());
  return absl::OkStatus();
}

struct VerifyOptions {
  std::string bytes_per_s = "0";
};

absl::Status Verify(const Globals& globals, const VerifyOptions& options) {
  size_t bytes_per_s = 0;
  LEXICO_RETURN_IF_ERROR(
      base::Annotate(base::ParseByteSize(options.bytes_per_s, &bytes_per_s), "--rate"));
  LEXICO_ASSIGN_OR_RETURN(const Client client, Client::Connect(globals));
  v1::VerifyRequest request;
  request.set_bytes_per_second(bytes_per_s);
  const auto context = client.NewContext(absl::ZeroDuration());
  const auto reader = client.admin().VerifyStore(context.get(), request);
  v1::VerifyProgress progress;
  while (reader->Read(&progress)) {
    if (globals.json) {
      PrintJson(ToJson(progress));
    } else if (!progress.done()) {
      fmt::print(stderr, "{} of {}, {} pages, {} damaged\n", Amount(progress.bytes()),
                 Amount(progress.bytes_all()), progress.n_pages(), progress.n_damaged());
    }
  }
  LEXICO_RETURN_IF_ERROR(client.Convert(reader->Finish(), absl::ZeroDuration()));
  if (!globals.json) {
    fmt::print("{} pages, {}: {} damaged, {} of them written again from memory\n",
               progress.n_pages(), Amount(progress.bytes()), progress.n_damaged(),
               progress.n_repaired());
  }
  const uint64_t n_lost = progress.n_damaged() - progress.n_repaired();
  if (n_lost == 0) return absl::OkStatus();
  return absl::DataLossError(fmt::format(
      "{} pages on the disk were damaged and dropped; sessions that need them read them "
      "again from their text at the next call",
      n_lost));
}

}  // namespace

void AddStoreCommands(CLI::App& app, Command& command) {
  auto* store = app.add_subcommand("store", "Look after the cache store");
  store->require_subcommand(1);
  store->fallthrough();
  store->footer(
      "Examples:\n  lexico store status\n  lexico store verify --rate 100MiB\n  lexico store "
      "orphans --delete");
  Bind(store->add_subcommand("status", "What the store holds, by tier"), command,
       std::make_shared<NoOptions>(), &StoreStatus);
  auto verify_options = std::make_shared<VerifyOptions>();
  auto* verify = store->add_subcommand(
      "verify", "Read and check every page on the store's disk now, of all tenants");
  verify
      ->add_option("--rate", verify_options->bytes_per_s,
                   "Bytes a second at most, as in 100MiB; 0: as fast as the disk")
      ->capture_default_str();
  Bind(verify, command, verify_options, &Verify);
  auto options = std::make_shared<OrphansOptions>();
  auto* orphans = store->add_subcommand(
      "orphans", "Sessions in the store that the coordinator does not know, of all tenants");
  orphans
      ->add_option("--older-than", options->older_than_s,
                   "Only those that the store has had unchanged for this many seconds")
      ->check(CLI::Range(0.0, 1e9))
      ->capture_default_str();
  orphans->add_flag("--delete", options->deletes, "Delete them from the store; this is final");
  orphans->footer(
      "After a coordinator lost its journal, every session of before is an orphan and may still "
      "be\n"
      "wanted: restore the journal from a backup first.\n"
      "Examples:\n  lexico store orphans\n  lexico store orphans --older-than 86400 --delete");
  Bind(orphans, command, options, &Orphans);
}

}  // namespace lexico::cli

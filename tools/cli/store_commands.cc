// lexico store orphans.
#include <fmt/format.h>

#include "absl/time/clock.h"
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

}  // namespace

void AddStoreCommands(CLI::App& app, Command& command) {
  auto* store = app.add_subcommand("store", "Look after the cache store");
  store->require_subcommand(1);
  store->fallthrough();
  store->footer("Examples:\n  lexico store orphans\n  lexico store orphans --delete");
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

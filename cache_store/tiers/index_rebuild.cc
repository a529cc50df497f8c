#include "cache_store/tiers/index_rebuild.h"

#include <fmt/format.h>
#include <rocksdb/db.h>
#include <rocksdb/options.h>

#include <filesystem>
#include <memory>

#include "cache_store/tiers/segment_file.h"
#include "proto/base/log.h"
#include "proto/base/status.h"

namespace lexico::store {
namespace {

namespace fs = std::filesystem;

absl::Status FsStatus(const std::error_code& error, const std::string& what) {
  return error ? ErrnoStatus(error.value(), what) : absl::OkStatus();
}

absl::Status RocksStatus(const rocksdb::Status& status, const std::string& what) {
  if (status.ok()) return absl::OkStatus();
  return absl::UnavailableError(fmt::format("{}: {}", what, status.ToString()));
}

bool HoldsRows(const fs::path& file) {
  return file.extension() == ".sst" || file.extension() == ".log";
}

std::string DamagedDir(const std::string& data_dir, int n) {
  return fmt::format("{}/index.damaged-{}", data_dir, n);
}

// Number of the newest index that was put aside, 0 for none.
int LastDamaged(const std::string& data_dir) {
  std::error_code error;
  int n = 0;
  while (fs::exists(DamagedDir(data_dir, n + 1), error)) ++n;
  return n;
}

// The files of `from` that hold rows, under `to` as well. Tables and logs are never written again,
// so links are as good as copies.
absl::Status LinkRows(const std::string& from, const std::string& to) {
  std::error_code error;
  fs::remove_all(to, error);
  LEXICO_RETURN_IF_ERROR(FsStatus(error, "remove " + to));
  fs::create_directory(to, error);
  LEXICO_RETURN_IF_ERROR(FsStatus(error, "make " + to));
  if (from.empty()) return absl::OkStatus();
  for (const auto& entry : fs::directory_iterator(from, error)) {
    if (!HoldsRows(entry.path())) continue;
    fs::create_hard_link(entry.path(), fs::path(to) / entry.path().filename(), error);
    LEXICO_RETURN_IF_ERROR(FsStatus(error, "link " + entry.path().string()));
  }
  return FsStatus(error, "read " + from);
}

// RocksDB's repairer puts tables that it cannot read through, and logs that it has read, here.
void ReportLost(const std::string& dir) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(dir + "/lost", error)) {
    if (entry.path().extension() != ".sst") continue;
    spdlog::error(
        "index file {} cannot be read: sessions whose newest manifest was in it are lost, or as "
        "they were before",
        entry.path().filename().string());
  }
}

absl::Status Repair(const std::string& dir) {
  rocksdb::Options options = IndexDbOptions();
  LEXICO_RETURN_IF_ERROR(RocksStatus(rocksdb::RepairDB(dir, options), "repair " + dir));
  ReportLost(dir);
  rocksdb::DB* raw = nullptr;
  LEXICO_RETURN_IF_ERROR(RocksStatus(rocksdb::DB::Open(options, dir, &raw), "open " + dir));
  const std::unique_ptr<rocksdb::DB> db(raw);
  rocksdb::WriteOptions write;
  write.sync = true;
  for (const char* kind : {"p", "s"}) {
    const std::string end(1, static_cast<char>(kind[0] + 1));
    LEXICO_RETURN_IF_ERROR(RocksStatus(db->DeleteRange(write, db->DefaultColumnFamily(), kind, end),
                                       "clear rows of " + dir));
  }
  uint64_t n_manifests = 0;
  const std::unique_ptr<rocksdb::Iterator> it(db->NewIterator(rocksdb::ReadOptions()));
  for (it->Seek("m"); it->Valid() && it->key()[0] == 'm'; it->Next()) ++n_manifests;
  spdlog::warn("index rebuilt: {} sessions taken over; reading all segments", n_manifests);
  return RocksStatus(it->status(), "read " + dir);
}

}  // namespace

absl::Status CheckIndexIsThere(const std::string& data_dir) {
  const std::string dir = data_dir + "/index";
  std::error_code error;
  if (fs::exists(dir + "/CURRENT", error)) return absl::OkStatus();
  bool was_served = LastDamaged(data_dir) > 0;
  for (const auto& entry : fs::directory_iterator(dir, error))
    was_served |= HoldsRows(entry.path());
  LEXICO_ASSIGN_OR_RETURN(const auto segments, ListSegments(data_dir + "/segments"));
  if (!was_served && segments.empty()) return absl::OkStatus();
  return absl::DataLossError(fmt::format(
      "{} is missing or has no CURRENT file, and {} has {} segments: restore it from a backup, or "
      "start once with --rebuild_index, which finds the pages again in the segments and takes over "
      "every session that can still be read",
      dir, data_dir, segments.size()));
}

absl::Status RebuildIndex(const std::string& data_dir) {
  const std::string dir = data_dir + "/index";
  const std::string next = data_dir + "/index.new";
  std::error_code error;
  const bool is_there = fs::exists(dir, error);
  const int last = LastDamaged(data_dir);
  // Not there: it was lost, or an earlier run was cut short between the two renames below.
  const std::string from = is_there ? dir : last > 0 ? DamagedDir(data_dir, last) : "";
  spdlog::warn("rebuilding {} from {}", dir, from.empty() ? "the segments alone" : from);
  LEXICO_RETURN_IF_ERROR(LinkRows(from, next));
  LEXICO_RETURN_IF_ERROR(Repair(next));
  if (is_there) {
    const std::string aside = DamagedDir(data_dir, last + 1);
    fs::rename(dir, aside, error);
    LEXICO_RETURN_IF_ERROR(FsStatus(error, "rename " + dir));
    spdlog::warn("the old index stays as {}; delete it when all is well", aside);
  }
  fs::rename(next, dir, error);
  LEXICO_RETURN_IF_ERROR(FsStatus(error, "rename " + next));
  return SyncDirectory(data_dir);
}

}  // namespace lexico::store

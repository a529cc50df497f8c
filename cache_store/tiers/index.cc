#include "cache_store/tiers/index.h"

#include <fmt/format.h>
#include <rocksdb/db.h>
#include <rocksdb/options.h>
#include <rocksdb/write_batch.h>

#include <cstring>

#include "cache_store/tiers/index_rebuild.h"
#include "proto/base/bytes.h"
#include "proto/base/status.h"

namespace lexico::store {
namespace {

constexpr uint32_t kVersion = 1;
constexpr char kVersionKey[] = "v";

absl::Status FromRocks(const rocksdb::Status& status, const std::string& what) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = fmt::format("index: {}: {}", what, status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(message);
  if (status.IsCorruption()) return absl::DataLossError(message);
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(message);
  return absl::UnavailableError(message);
}

std::string PageRow(const PageKey& key) {
  return "p" + std::string(reinterpret_cast<const char*>(key.bytes.data()), key.bytes.size());
}

// Big-endian, so that RocksDB's order is the numbers' order.
std::string SegmentRow(uint64_t id) {
  std::string row = "s";
  for (int shift = 56; shift >= 0; shift -= 8) row += static_cast<char>(id >> shift);
  return row;
}

std::string ManifestRow(const std::string& session_id) { return "m" + session_id; }
std::string TombstoneRow(const std::string& session_id) { return "d" + session_id; }

std::string EncodeLocation(const Location& location) {
  base::ByteWriter out;
  out.Write(location.segment_id);
  out.Write(location.offset);
  out.Write(location.bytes);
  return out.Take();
}

absl::StatusOr<ManifestRecord> DecodeRecord(const std::string& session_id, std::string_view value) {
  base::ByteReader in(base::AsBytes(value));
  ManifestRecord record;
  record.epoch = in.Read<uint64_t>();
  record.update_time_us = in.Read<int64_t>();
  if (!in.ok()) {
    return absl::DataLossError(
        fmt::format("index: manifest of session {} has {} bytes", session_id, value.size()));
  }
  const auto bytes = in.ReadBytes(in.remaining());
  record.bytes.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return record;
}

}  // namespace

rocksdb::Options IndexDbOptions() {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.paranoid_checks = true;
  // 20 M page rows of 37 bytes compact well with the defaults; only memory is bounded tighter.
  options.write_buffer_size = 16u << 20;
  options.max_write_buffer_number = 3;
  options.max_total_wal_size = 64u << 20;
  options.max_open_files = 256;
  // Files grow with what is in them; reserving ahead would take a small disk whole.
  options.allow_fallocate = false;
  options.keep_log_file_num = 2;
  options.max_background_jobs = 2;
  options.compression = rocksdb::kNoCompression;  // keys are hashes; token ids hardly compress
  return options;
}

absl::Status WithIndexRemedy(const absl::Status& status, const std::string& dir) {
  if (!absl::IsDataLoss(status)) return status;
  return absl::DataLossError(fmt::format(
      "{}; {} is damaged: restore it from a backup, or start once with --rebuild_index, which "
      "finds "
      "the pages again in the segments and takes over every session that can still be read",
      std::string(status.message()), dir));
}

namespace {

// Calls visit(row without prefix, value) for every row that begins with `prefix`.
absl::Status ForEachRow(
    rocksdb::DB& db, char prefix,
    const std::function<absl::Status(std::string_view, std::string_view)>& visit) {
  const std::unique_ptr<rocksdb::Iterator> it(db.NewIterator(rocksdb::ReadOptions()));
  for (it->Seek(rocksdb::Slice(&prefix, 1)); it->Valid() && it->key()[0] == prefix; it->Next()) {
    LEXICO_RETURN_IF_ERROR(visit({it->key().data() + 1, it->key().size() - 1},
                                 {it->value().data(), it->value().size()}));
  }
  return FromRocks(it->status(), "read");
}

absl::Status CheckVersion(rocksdb::DB& db, const std::string& dir) {
  std::string value;
  const rocksdb::Status found = db.Get(rocksdb::ReadOptions(), kVersionKey, &value);
  if (found.IsNotFound()) {
    base::ByteWriter out;
    out.Write(kVersion);
    rocksdb::WriteOptions options;
    options.sync = true;
    return FromRocks(db.Put(options, kVersionKey, out.buffer()), "write version");
  }
  LEXICO_RETURN_IF_ERROR(FromRocks(found, "read version"));
  const auto version = base::ByteReader(base::AsBytes(value)).Read<uint32_t>();
  if (version != kVersion) {
    return absl::FailedPreconditionError(
        fmt::format("{} has version {}, this build reads {}", dir, version, kVersion));
  }
  return absl::OkStatus();
}

}  // namespace

Index::Index(std::unique_ptr<rocksdb::DB> db, base::FaultInjector* faults)
    : db_(std::move(db)), faults_(faults) {}
Index::~Index() = default;

absl::StatusOr<std::unique_ptr<Index>> Index::Open(const std::string& dir,
                                                   base::FaultInjector* faults) {
  rocksdb::DB* raw = nullptr;
  const rocksdb::Status opened = rocksdb::DB::Open(IndexDbOptions(), dir, &raw);
  std::unique_ptr<rocksdb::DB> db(raw);
  if (!opened.ok()) {
    // A file that the index names and that is not there is an I/O error to RocksDB.
    absl::Status status = FromRocks(opened, "open");
    if (opened.IsIOError() && opened.subcode() == rocksdb::Status::SubCode::kPathNotFound) {
      status = absl::DataLossError(std::string(status.message()));
    }
    return WithIndexRemedy(base::Annotate(status, fmt::format("cannot open {}", dir)), dir);
  }
  LEXICO_RETURN_IF_ERROR(CheckVersion(*db, dir));
  return std::unique_ptr<Index>(new Index(std::move(db), faults));
}

absl::Status Index::ForEachPage(const std::function<void(const SegmentRecord&)>& visit) const {
  return ForEachRow(*db_, 'p', [&](std::string_view row, std::string_view value) {
    base::ByteReader in(base::AsBytes(value));
    SegmentRecord record;
    record.location.segment_id = in.Read<uint64_t>();
    record.location.offset = in.Read<uint64_t>();
    record.location.bytes = in.Read<uint32_t>();
    if (row.size() != record.key.bytes.size() || !in.ok() || in.remaining() != 0) {
      return absl::DataLossError(
          fmt::format("index: a page row of {} and {} bytes, must be 16 and "
                      "20",
                      row.size(), value.size()));
    }
    std::memcpy(record.key.bytes.data(), row.data(), row.size());
    visit(record);
    return absl::OkStatus();
  });
}

absl::StatusOr<std::map<uint64_t, uint64_t>> Index::SealedSegments() const {
  std::map<uint64_t, uint64_t> sealed;
  LEXICO_RETURN_IF_ERROR(ForEachRow(*db_, 's', [&](std::string_view row, std::string_view value) {
    base::ByteReader in(base::AsBytes(value));
    const auto length = in.Read<uint64_t>();
    if (row.size() != 8 || !in.ok()) {
      return absl::DataLossError(fmt::format(
          "index: a segment row of {} and {} bytes, must be 8 and 8", row.size(), value.size()));
    }
    uint64_t id = 0;
    for (const char byte : row) id = id << 8 | static_cast<uint8_t>(byte);
    sealed[id] = length;
    return absl::OkStatus();
  }));
  return sealed;
}

absl::Status Index::Write(rocksdb::WriteBatch* batch, bool sync) {
  if (faults_ != nullptr) LEXICO_RETURN_IF_ERROR(faults_->Hit("disk.index"));
  rocksdb::WriteOptions options;
  options.sync = sync;
  rocksdb::Status status = db_->Write(options, batch);
  if (!status.ok() && status.severity() >= rocksdb::Status::Severity::kSoftError) {
    // After a failed write (a full disk, say) RocksDB refuses all others until it is told to go on.
    if (db_->Resume().ok()) status = db_->Write(options, batch);
  }
  return FromRocks(status, "write");
}

absl::Status Index::Apply(const IndexChange& change, bool sync) {
  if (change.empty()) return absl::OkStatus();
  rocksdb::WriteBatch batch;
  for (const PageKey& key : change.removed) batch.Delete(PageRow(key));
  for (const SegmentRecord& record : change.added) {
    batch.Put(PageRow(record.key), EncodeLocation(record.location));
  }
  for (const auto& [id, length] : change.sealed_segments) {
    batch.Put(SegmentRow(id), rocksdb::Slice(reinterpret_cast<const char*>(&length), 8));
  }
  for (const uint64_t id : change.deleted_segments) batch.Delete(SegmentRow(id));
  return Write(&batch, sync);
}

absl::Status Index::Put(const std::string& session_id, const ManifestRecord& record) {
  base::ByteWriter out;
  out.buffer().reserve(16 + record.bytes.size());
  out.Write(record.epoch);
  out.Write(record.update_time_us);
  out.WriteBytes(base::AsBytes(record.bytes));
  rocksdb::WriteBatch batch;
  batch.Put(ManifestRow(session_id), out.buffer());
  return Write(&batch, /*sync=*/true);
}

absl::StatusOr<ManifestRecord> Index::Get(const std::string& session_id) const {
  rocksdb::PinnableSlice value;
  const rocksdb::Status status =
      db_->Get(rocksdb::ReadOptions(), db_->DefaultColumnFamily(), ManifestRow(session_id), &value);
  if (status.IsNotFound()) {
    return absl::NotFoundError(fmt::format("no manifest of session {}", session_id));
  }
  LEXICO_RETURN_IF_ERROR(FromRocks(status, "read manifest of session " + session_id));
  return DecodeRecord(session_id, {value.data(), value.size()});
}

absl::Status Index::Delete(const std::string& session_id, const Tombstone& tombstone) {
  base::ByteWriter out;
  out.Write(tombstone.create_time_us);
  out.Write(tombstone.epoch);
  out.Write(tombstone.delete_time_us);
  rocksdb::WriteBatch batch;
  batch.Delete(ManifestRow(session_id));
  batch.Put(TombstoneRow(session_id), out.buffer());
  return Write(&batch, /*sync=*/true);
}

absl::Status Index::ForEachTombstone(
    const std::function<void(const std::string&, const Tombstone&)>& visit) const {
  return ForEachRow(*db_, 'd', [&](std::string_view row, std::string_view value) {
    base::ByteReader in(base::AsBytes(value));
    Tombstone tombstone;
    tombstone.create_time_us = in.Read<int64_t>();
    tombstone.epoch = in.Read<uint64_t>();
    tombstone.delete_time_us = in.Read<int64_t>();
    if (!in.ok() || in.remaining() != 0) {
      return absl::DataLossError(
          fmt::format("index: a tombstone row of {} bytes, must be 24", value.size()));
    }
    visit(std::string(row), tombstone);
    return absl::OkStatus();
  });
}

absl::Status Index::DropTombstones(const std::vector<std::string>& session_ids) {
  if (session_ids.empty()) return absl::OkStatus();
  rocksdb::WriteBatch batch;
  for (const std::string& session_id : session_ids) batch.Delete(TombstoneRow(session_id));
  return Write(&batch, /*sync=*/false);
}

absl::Status Index::ForEach(
    const std::function<void(const std::string&, const ManifestRecord&)>& visit) const {
  return ForEachRow(*db_, 'm', [&](std::string_view row, std::string_view value) {
    const std::string session_id(row);
    LEXICO_ASSIGN_OR_RETURN(const ManifestRecord record, DecodeRecord(session_id, value));
    visit(session_id, record);
    return absl::OkStatus();
  });
}

}  // namespace lexico::store

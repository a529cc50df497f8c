#include "coordinator/state/local_state.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "proto/base/check.h"
#include "proto/base/status.h"

namespace lexico::coord {
namespace {

absl::Status ErrnoStatus(int error, const std::string& what) {
  if (error == ENOSPC || error == EDQUOT) {
    return absl::ResourceExhaustedError(
        fmt::format("{}: {}; free space on this disk", what, strerror(error)));
  }
  return absl::ErrnoToStatus(error, what);
}

absl::Status WriteAll(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(errno, fmt::format("cannot write {}", path));
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

// Makes a created or renamed file's name durable.
absl::Status SyncFolder(const std::string& folder) {
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, fmt::format("cannot open {}", folder));
  const int result = fsync(fd);
  const int error = errno;
  close(fd);
  return result == 0 ? absl::OkStatus() : ErrnoStatus(error, fmt::format("cannot sync {}", folder));
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return absl::UnavailableError(fmt::format("cannot read {}", path));
  return std::move(text).str();
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalState>> LocalState::Open(const LocalStateOptions& options) {
  auto state = std::unique_ptr<LocalState>(new LocalState(options));
  if (options.folder.empty()) return state;
  std::error_code error;
  std::filesystem::create_directories(options.folder, error);
  if (error) {
    return absl::ErrnoToStatus(error.value(),
                               fmt::format("cannot make --data_dir {}", options.folder));
  }
  LEXICO_RETURN_IF_ERROR(state->LockFolder());
  LEXICO_RETURN_IF_ERROR(state->LoadJournal());
  return state;
}

LocalState::~LocalState() {
  absl::MutexLock lock(&mutex_);
  if (fd_ >= 0) {
    fdatasync(fd_);  // lazy writes of an orderly end; nobody is left to tell of a failure
    close(fd_);
  }
  if (lock_fd_ >= 0) close(lock_fd_);
}

absl::Status LocalState::LockFolder() {
  const std::string path = options_.folder + "/lock";
  lock_fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_fd_ < 0) return ErrnoStatus(errno, fmt::format("cannot open {}", path));
  if (flock(lock_fd_, LOCK_EX | LOCK_NB) != 0) {
    const auto pid = ReadFile(path);
    return absl::FailedPreconditionError(
        fmt::format("--data_dir {} is in use by process {}; stop it or choose another folder",
                    options_.folder, pid.ok() && !pid->empty() ? *pid : "(unknown)"));
  }
  if (ftruncate(lock_fd_, 0) != 0) return ErrnoStatus(errno, fmt::format("cannot write {}", path));
  return WriteAll(lock_fd_, std::to_string(getpid()), path);
}

absl::Status LocalState::LoadJournal() {
  absl::MutexLock lock(&mutex_);
  const std::string path = JournalPath();
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return Compact();  // writes an empty one
  LEXICO_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  LEXICO_ASSIGN_OR_RETURN(JournalContents contents, ParseJournal(bytes, path));
  fd_ = open(path.c_str(), O_RDWR | O_APPEND | O_CLOEXEC);
  if (fd_ < 0) return ErrnoStatus(errno, fmt::format("cannot open {}", path));
  if (contents.torn_bytes > 0) {
    torn_bytes_ = contents.torn_bytes;
    spdlog::warn("journal {}: cut off {} bytes at {}: a write that a crash interrupted", path,
                 contents.torn_bytes, contents.valid_bytes);
    if (ftruncate(fd_, static_cast<off_t>(contents.valid_bytes)) != 0 || fsync(fd_) != 0) {
      return ErrnoStatus(errno, fmt::format("cannot cut {}", path));
    }
  }
  entries_ = std::move(contents.entries);
  revision_ = contents.revision;
  synced_revision_ = revision_;
  file_bytes_ = contents.valid_bytes;
  snapshot_bytes_ = contents.snapshot_bytes;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<StateEntry>> LocalState::List(std::string_view prefix) {
  absl::MutexLock lock(&mutex_);
  std::vector<StateEntry> result;
  for (auto it = entries_.lower_bound(prefix); it != entries_.end(); ++it) {
    if (!std::string_view(it->first).starts_with(prefix)) break;
    result.push_back(it->second);
  }
  return result;
}

absl::StatusOr<uint64_t> LocalState::Put(std::string_view key, std::string_view value,
                                         uint64_t expected_revision, Durability durability) {
  absl::MutexLock lock(&mutex_);
  LEXICO_RETURN_IF_ERROR(CheckRevision(key, expected_revision));
  LEXICO_RETURN_IF_ERROR(Append(EncodeRecord(RecordKind::kPut, revision_ + 1, key, value)));
  const uint64_t revision = ++revision_;
  entries_[std::string(key)] = {std::string(key), std::string(value), revision};
  if (durability == Durability::kDurable) LEXICO_RETURN_IF_ERROR(Sync());
  CompactIfDue();
  return revision;
}

absl::Status LocalState::Delete(std::string_view key, uint64_t expected_revision) {
  absl::MutexLock lock(&mutex_);
  LEXICO_RETURN_IF_ERROR(CheckRevision(key, expected_revision));
  const auto it = entries_.find(key);
  if (it == entries_.end()) return absl::AbortedError(fmt::format("no record {}", key));
  LEXICO_RETURN_IF_ERROR(Append(EncodeRecord(RecordKind::kDelete, revision_ + 1, key, "")));
  ++revision_;
  entries_.erase(it);
  LEXICO_RETURN_IF_ERROR(Sync());
  CompactIfDue();
  return absl::OkStatus();
}

uint64_t LocalState::Revision() {
  absl::MutexLock lock(&mutex_);
  return revision_;
}

uint64_t LocalState::SizeBytes() {
  absl::MutexLock lock(&mutex_);
  return file_bytes_;
}

absl::Status LocalState::CheckRevision(std::string_view key, uint64_t expected_revision) {
  LEXICO_RETURN_IF_ERROR(broken_);
  const auto it = entries_.find(key);
  const uint64_t revision = it == entries_.end() ? 0 : it->second.revision;
  if (revision == expected_revision) return absl::OkStatus();
  return absl::AbortedError(
      fmt::format("record {} is at revision {}, not {}: another writer came "
                  "first; read it again",
                  key, revision, expected_revision));
}

absl::Status LocalState::Append(const std::string& record) {
  if (fd_ < 0) return absl::OkStatus();
  absl::Status status = absl::OkStatus();
  if (options_.faults != nullptr) status = options_.faults->Hit("journal.write");
  if (status.ok()) status = WriteAll(fd_, record, JournalPath());
  if (status.ok()) {
    file_bytes_ += record.size();
    return status;
  }
  // Part of the record may be there: without cutting it the next one would follow garbage.
  if (ftruncate(fd_, static_cast<off_t>(file_bytes_)) != 0) {
    broken_ = base::Annotate(status, "the journal cannot be repaired while running, restart");
  }
  return status;
}

absl::Status LocalState::Sync() {
  if (fd_ < 0) return absl::OkStatus();
  const uint64_t target = revision_;
  while (synced_revision_ < target) {
    LEXICO_RETURN_IF_ERROR(broken_);
    if (is_syncing_) {
      auto done = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !is_syncing_; };
      mutex_.Await(absl::Condition(&done));
      continue;
    }
    is_syncing_ = true;
    const uint64_t covers = revision_;
    const int fd = fd_;
    mutex_.Unlock();
    absl::Status status = absl::OkStatus();
    if (options_.faults != nullptr) status = options_.faults->Hit("journal.sync");
    if (status.ok() && fdatasync(fd) != 0) {
      status = absl::UnavailableError(
          fmt::format("cannot sync {}: {}; the disk fails, restart after repair", JournalPath(),
                      strerror(errno)));
    }
    mutex_.Lock();
    is_syncing_ = false;
    if (!status.ok()) {
      broken_ = status;
      return status;
    }
    synced_revision_ = std::max(synced_revision_, covers);
  }
  return absl::OkStatus();
}

void LocalState::CompactIfDue() {
  if (fd_ < 0 || is_syncing_ || !broken_.ok()) return;
  if (file_bytes_ <= 3 * snapshot_bytes_ + options_.compact_slack_bytes) return;
  const absl::Status status = Compact();
  // The old journal is still whole and in use; the next write tries again.
  if (!status.ok()) spdlog::warn("journal not compacted: {}", std::string(status.message()));
}

absl::Status LocalState::Compact() {
  std::string bytes = EncodeJournalHeader(revision_, static_cast<uint32_t>(entries_.size()));
  for (const auto& [key, entry] : entries_) {
    bytes += EncodeRecord(RecordKind::kPut, entry.revision, key, entry.value);
  }
  const std::string path = options_.folder + "/journal.new";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, fmt::format("cannot open {}", path));
  absl::Status status = WriteAll(fd, bytes, path);
  if (status.ok() && fsync(fd) != 0) {
    status = ErrnoStatus(errno, fmt::format("cannot sync {}", path));
  }
  if (status.ok() && rename(path.c_str(), JournalPath().c_str()) != 0) {
    status = ErrnoStatus(errno, fmt::format("cannot rename {}", path));
  }
  if (!status.ok()) {
    close(fd);
    return status;
  }
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
  file_bytes_ = snapshot_bytes_ = bytes.size();
  synced_revision_ = revision_;
  return SyncFolder(options_.folder);
}

}  // namespace lexico::coord

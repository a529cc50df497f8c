#include "cache_store/tiers/segment_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "cache_store/format/page.h"
#include "proto/base/bytes.h"
#include "proto/base/check.h"
#include "proto/base/hash.h"
#include "proto/base/status.h"

namespace lexico::store {
namespace {

constexpr char kMagic[4] = {'L', 'X', 'S', 'G'};
constexpr uint16_t kVersion = 1;
constexpr char kSuffix[] = ".lxsg";
constexpr size_t kIovMax = 1024;  // of one pwritev: IOV_MAX of Linux

std::string PathOf(const std::string& dir, uint64_t id) {
  return fmt::format("{}/{:010}{}", dir, id, kSuffix);
}

std::string EncodeSegmentHeader(uint64_t id) {
  base::ByteWriter out;
  out.WriteBytes(base::AsBytes({kMagic, 4}));
  out.Write(kVersion);
  out.Write<uint16_t>(kSegmentHeaderBytes);
  out.Write(id);
  out.Write(base::Crc32c(base::AsBytes(out.buffer())));
  std::string header = out.Take();
  header.resize(kSegmentHeaderBytes, '\0');
  return header;
}

// Writes all of `parts` at `offset`, however many calls it takes.
absl::Status WriteAll(int fd, std::vector<iovec> parts, uint64_t offset, const std::string& path) {
  size_t first = 0;
  while (first < parts.size()) {
    const int count = static_cast<int>(std::min(kIovMax, parts.size() - first));
    ssize_t written = pwritev(fd, parts.data() + first, count, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(errno, "write to " + path);
    offset += written;
    while (first < parts.size() && written >= static_cast<ssize_t>(parts[first].iov_len)) {
      written -= static_cast<ssize_t>(parts[first++].iov_len);
    }
    if (written > 0) {
      parts[first].iov_base = static_cast<char*>(parts[first].iov_base) + written;
      parts[first].iov_len -= written;
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<uint64_t> DecodeSegmentHeader(std::span<const uint8_t> bytes) {
  if (bytes.size() < kSegmentHeaderBytes) {
    return absl::DataLossError(
        fmt::format("{} bytes, the header of a segment has {}", bytes.size(), kSegmentHeaderBytes));
  }
  if (std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) != 0) {
    return absl::DataLossError("it does not begin with LXSG, as a segment does");
  }
  base::ByteReader in(bytes.subspan(sizeof(kMagic)));
  const auto version = in.Read<uint16_t>();
  in.Read<uint16_t>();  // header_bytes, checked with the rest below
  const auto id = in.Read<uint64_t>();
  const auto crc = in.Read<uint32_t>();
  const uint32_t computed = base::Crc32c(bytes.first(sizeof(kMagic) + 12));
  if (crc != computed) {
    return absl::DataLossError(
        fmt::format("the segment's header has crc32c {:08x}, it says {:08x}", computed, crc));
  }
  if (version != kVersion) {
    return absl::FailedPreconditionError(
        fmt::format("a segment of version {}, this program reads version {}", version, kVersion));
  }
  const std::string known = EncodeSegmentHeader(id);
  if (std::memcmp(bytes.data(), known.data(), known.size()) != 0) {
    return absl::DataLossError("the segment's header has bytes that no version writes");
  }
  return id;
}

absl::Status ErrnoStatus(int error, const std::string& what) {
  std::string message = fmt::format("{}: {}", what, std::strerror(error));
  if (error == ENOSPC || error == EDQUOT) return absl::ResourceExhaustedError(message);
  return absl::UnavailableError(message);
}

absl::Status SyncDirectory(const std::string& dir) {
  const int fd = open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, "open " + dir);
  const int result = fsync(fd);
  const int error = errno;
  close(fd);
  return result == 0 ? absl::OkStatus() : ErrnoStatus(error, "fsync " + dir);
}

absl::StatusOr<std::vector<uint64_t>> ListSegments(const std::string& dir) {
  DIR* handle = opendir(dir.c_str());
  if (handle == nullptr) return ErrnoStatus(errno, "open " + dir);
  std::vector<uint64_t> ids;
  while (const dirent* entry = readdir(handle)) {
    uint64_t id = 0;
    int end = 0;
    if (std::sscanf(entry->d_name, "%10lu.lxsg%n", &id, &end) == 1 && end > 0 &&
        entry->d_name[end] == '\0') {
      ids.push_back(id);
    }
  }
  closedir(handle);
  std::sort(ids.begin(), ids.end());
  return ids;
}

absl::StatusOr<std::shared_ptr<SegmentFile>> SegmentFile::Create(const std::string& dir,
                                                                 uint64_t id,
                                                                 base::FaultInjector* faults) {
  const std::string path = PathOf(dir, id);
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
  if (fd < 0) return ErrnoStatus(errno, "create " + path);
  std::shared_ptr<SegmentFile> file(new SegmentFile(path, id, fd, kSegmentHeaderBytes, faults));
  std::string header = EncodeSegmentHeader(id);
  absl::Status status = WriteAll(fd, {{header.data(), header.size()}}, 0, path);
  if (status.ok()) status = file->Sync();
  if (status.ok()) status = SyncDirectory(dir);
  if (!status.ok()) {
    unlink(path.c_str());
    return status;
  }
  return file;
}

absl::StatusOr<std::shared_ptr<SegmentFile>> SegmentFile::Open(const std::string& dir, uint64_t id,
                                                               base::FaultInjector* faults) {
  const std::string path = PathOf(dir, id);
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, "open " + path);
  struct stat info;
  if (fstat(fd, &info) != 0) {
    const int error = errno;
    close(fd);
    return ErrnoStatus(error, "stat " + path);
  }
  std::shared_ptr<SegmentFile> file(
      new SegmentFile(path, id, fd, static_cast<uint64_t>(info.st_size), faults));
  std::array<uint8_t, kSegmentHeaderBytes> header;
  LEXICO_RETURN_IF_ERROR(file->Read(0, header));
  const auto named = DecodeSegmentHeader(header);
  if (!named.ok()) return base::Annotate(named.status(), path);
  if (*named != id) {
    return absl::DataLossError(
        fmt::format("{} begins with the header of segment {}, not {}", path, *named, id));
  }
  return file;
}

SegmentFile::~SegmentFile() { close(fd_); }

absl::Status SegmentFile::Append(std::span<const NamedPage> pages,
                                 std::vector<Location>* locations) {
  static constexpr uint8_t kZeros[64] = {};
  std::vector<iovec> parts;
  uint64_t end = size_;
  locations->clear();
  for (const NamedPage& named : pages) {
    const auto bytes = named.page->bytes();
    locations->push_back({id_, end, static_cast<uint32_t>(bytes.size())});
    parts.push_back({const_cast<uint8_t*>(bytes.data()), bytes.size()});
    const size_t padding = RecordBytes(bytes.size()) - bytes.size();
    if (padding > 0) parts.push_back({const_cast<uint8_t*>(kZeros), padding});
    end += bytes.size() + padding;
  }
  if (absl::Status fault = Hit("disk.write"); !fault.ok()) {
    // As the kernel would leave it: a part of the batch is there.
    parts.resize(1);
    parts[0].iov_len /= 2;
    LEXICO_RETURN_IF_ERROR(WriteAll(fd_, parts, size_, path_));
    return fault;
  }
  LEXICO_RETURN_IF_ERROR(WriteAll(fd_, std::move(parts), size_, path_));
  size_ = end;
  return absl::OkStatus();
}

absl::Status SegmentFile::Sync() {
  LEXICO_RETURN_IF_ERROR(Hit("disk.sync"));
  if (fdatasync(fd_) != 0) return ErrnoStatus(errno, "fdatasync " + path_);
  return absl::OkStatus();
}

absl::Status SegmentFile::Truncate(uint64_t size) {
  LEXICO_RETURN_IF_ERROR(Hit("disk.truncate"));
  if (ftruncate(fd_, static_cast<off_t>(size)) != 0) {
    return ErrnoStatus(errno, "truncate " + path_);
  }
  size_ = size;
  return absl::OkStatus();
}

absl::Status SegmentFile::Read(uint64_t offset, std::span<uint8_t> bytes) const {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count =
        pread(fd_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, fmt::format("read {} at {}", path_, offset));
    if (count == 0) {
      return absl::DataLossError(fmt::format("{} ends at {}, bytes up to {} were expected", path_,
                                             offset + done, offset + bytes.size()));
    }
    done += count;
  }
  return absl::OkStatus();
}

absl::StatusOr<SegmentScan> SegmentFile::Scan() const {
  SegmentScan scan;
  scan.end = kSegmentHeaderBytes;
  uint64_t n_bad = 0;  // since the last valid record
  for (uint64_t offset = kSegmentHeaderBytes; offset + kPageHeaderBytes <= size_;) {
    std::array<uint8_t, kPageHeaderBytes> header_bytes;
    LEXICO_RETURN_IF_ERROR(Read(offset, header_bytes));
    const auto header = DecodeHeader(header_bytes);
    const uint64_t bytes = header.ok() ? kPageHeaderBytes + uint64_t{header->payload_bytes} : 0;
    bool valid = header.ok() && offset + bytes <= size_;
    if (valid) {
      PageBuffer page(bytes);
      LEXICO_RETURN_IF_ERROR(Read(offset, page.mutable_bytes()));
      valid = DecodePage(page.bytes()).ok();
    }
    if (!valid) {
      ++n_bad;
      offset += 64;
      continue;
    }
    scan.records.push_back({header->key, {id_, offset, static_cast<uint32_t>(bytes)}});
    scan.n_damaged += n_bad;
    n_bad = 0;
    offset += RecordBytes(bytes);
    // The padding of the last record may be missing: it carries nothing.
    scan.end = offset;
  }
  return scan;
}

absl::Status SegmentFile::Delete() {
  if (unlink(path_.c_str()) != 0) return ErrnoStatus(errno, "delete " + path_);
  return absl::OkStatus();
}

}  // namespace lexico::store

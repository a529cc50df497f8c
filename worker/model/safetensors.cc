#include "worker/model/safetensors.h"

#include <fmt/format.h>

#include "absl/status/status.h"
#include "proto/base/bytes.h"
#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "worker/model/safetensors_header.h"

namespace lexico::worker {

absl::StatusOr<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::Open(
    const std::string& path) {
  std::shared_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->path_ = path;
  LEXICO_ASSIGN_OR_RETURN(file->mapping_, MappedFile::Open(path));
  LEXICO_RETURN_IF_ERROR(base::Annotate(file->Parse(file->mapping_.bytes()), path));
  return file;
}

absl::StatusOr<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::FromBytes(
    const std::string& path, std::string bytes) {
  std::shared_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->path_ = path;
  file->owned_ = std::move(bytes);
  LEXICO_RETURN_IF_ERROR(base::Annotate(file->Parse(base::AsBytes(file->owned_)), path));
  return file;
}

absl::Status SafetensorsFile::Parse(std::span<const uint8_t> bytes) {
  base::ByteReader reader(bytes);
  const uint64_t header_bytes = reader.Read<uint64_t>();
  if (!reader.ok()) {
    return absl::DataLossError(
        fmt::format("{} bytes, too short for the 8-byte length of the header", bytes.size()));
  }
  if (header_bytes > base::kSafetensorsHeaderBytesMax) {
    return absl::DataLossError(fmt::format("header of {} bytes, more than the {} the format allows",
                                           header_bytes, base::kSafetensorsHeaderBytesMax));
  }
  if (header_bytes > reader.remaining()) {
    return absl::DataLossError(
        fmt::format("header of {} bytes, but only {} bytes follow; the file is truncated",
                    header_bytes, reader.remaining()));
  }
  const auto text = reader.ReadBytes(header_bytes);
  const auto data = reader.ReadBytes(reader.remaining());
  LEXICO_ASSIGN_OR_RETURN(
      SafetensorsHeader header,
      ParseSafetensorsHeader({reinterpret_cast<const char*>(text.data()), text.size()},
                             data.size()));
  for (SafetensorsEntry& entry : header.entries) {
    tensors_.emplace(std::move(entry.name),
                     StoredTensor{std::move(entry.dtype), std::move(entry.shape),
                                  data.subspan(entry.begin, entry.end - entry.begin)});
  }
  metadata_ = std::move(header.metadata);
  return absl::OkStatus();
}

}  // namespace lexico::worker

#include "tools/train_dictionary/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <span>

#include "absl/status/status.h"
#include "proto/base/status.h"
#include "proto/base/utf8.h"

namespace lexico::train_dictionary {
namespace {

constexpr int64_t kScanBytes = int64_t{4} << 20;
// About 16 k tokens of prose.
constexpr int64_t kReadBytes = int64_t{64} << 10;

bool IsContinuation(char byte) { return (static_cast<uint8_t>(byte) & 0xc0) == 0x80; }

// Where the first whole line of `text` begins, or the first whole character where none does.
size_t FirstWhole(std::string_view text) {
  if (const size_t newline = text.find('\n'); newline != std::string_view::npos) {
    return newline + 1;
  }
  size_t begin = std::min<size_t>(1, text.size());
  while (begin < text.size() && IsContinuation(text[begin])) ++begin;
  return begin;
}

// Where the last whole line of `text` ends, or the last whole character where none does.
size_t LastWhole(std::string_view text) {
  if (const size_t newline = text.rfind('\n'); newline != std::string_view::npos) {
    return newline + 1;
  }
  size_t end = text.size();
  while (end > 0 && IsContinuation(text[end - 1])) --end;
  return end > 0 ? end - 1 : 0;
}

std::string WithoutSeparators(std::string_view text) {
  std::string kept;
  kept.reserve(text.size());
  while (!text.empty()) {
    const size_t newline = text.find('\n');
    const size_t end = newline == std::string_view::npos ? text.size() : newline + 1;
    std::string_view line = text.substr(0, newline);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line != kDocumentEnd) kept.append(text.substr(0, end));
    text.remove_prefix(end);
  }
  return kept;
}

}  // namespace

absl::StatusOr<Text> Text::Open(std::vector<std::string> paths) {
  if (paths.empty()) return absl::InvalidArgumentError("no text; name files with --text");
  Text text;
  base::FingerprintBuilder fingerprint;
  std::string block(kScanBytes, '\0');
  for (std::string& path : paths) {
    std::ifstream file(path, std::ios::binary);
    if (!file) return absl::NotFoundError(fmt::format("{}: cannot be read", path));
    base::Utf8Validator utf8;
    File each{.path = std::move(path), .begin = text.bytes_};
    while (file.read(block.data(), kScanBytes), file.gcount() > 0) {
      const std::string_view part(block.data(), file.gcount());
      if (const absl::Status status = utf8.Push(part); !status.ok()) {
        return base::Annotate(status, each.path);
      }
      fingerprint.Add(part);
      each.bytes += file.gcount();
    }
    if (file.bad()) return absl::NotFoundError(fmt::format("{}: cannot be read", each.path));
    LEXICO_RETURN_IF_ERROR(base::Annotate(utf8.Finish(), each.path));
    fingerprint.AddInt(each.bytes);
    text.bytes_ += each.bytes;
    text.files_.push_back(std::move(each));
  }
  text.fingerprint_ = fingerprint.Finish();
  if (text.bytes_ == 0) return absl::InvalidArgumentError("the text is empty (--text)");
  return text;
}

absl::StatusOr<std::string> Text::Read(int64_t begin, int64_t n) const {
  std::string bytes;
  for (const File& each : files_) {
    const int64_t from = std::max(begin, each.begin);
    const int64_t to = std::min(begin + n, each.begin + each.bytes);
    if (from >= to) continue;
    const size_t place = bytes.size();
    bytes.resize(place + (to - from));
    std::ifstream file(each.path, std::ios::binary);
    file.seekg(from - each.begin);
    if (!file.read(bytes.data() + place, to - from)) {
      return absl::UnavailableError(fmt::format("{}: has changed while it was read", each.path));
    }
  }
  return bytes;
}

absl::StatusOr<std::vector<int32_t>> Text::ReadWindow(int64_t begin, int64_t end, int64_t n_ids,
                                                      const worker::Tokenizer& tokenizer) const {
  const worker::EncodeOptions theirs{.add_special_tokens = false, .parse_special = false};
  std::vector<int32_t> ids;
  std::string pending;
  // From the byte in front, which may end a line.
  int64_t offset = std::max<int64_t>(0, begin - 1);
  end = std::min(end, bytes_);
  while (offset < end && static_cast<int64_t>(ids.size()) < n_ids) {
    const bool first = offset == begin - 1;
    LEXICO_ASSIGN_OR_RETURN(const std::string read,
                            Read(offset, std::min(kReadBytes, end - offset)));
    offset += static_cast<int64_t>(read.size());
    pending += read;
    if (first) pending.erase(0, FirstWhole(pending));
    const size_t cut = offset == bytes_ ? pending.size() : LastWhole(pending);
    LEXICO_ASSIGN_OR_RETURN(
        const std::vector<int32_t> more,
        tokenizer.Encode(WithoutSeparators(std::string_view(pending).substr(0, cut)), theirs));
    ids.insert(ids.end(), more.begin(), more.end());
    pending.erase(0, cut);
  }
  if (static_cast<int64_t>(ids.size()) > n_ids) ids.resize(n_ids);
  return ids;
}

}  // namespace lexico::train_dictionary

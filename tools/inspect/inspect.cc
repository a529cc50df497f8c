#include "tools/inspect/inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <map>
#include <thread>

#include "coordinator/state/journal.h"
#include "kernels/api/unit_atoms.h"
#include "proto/base/bytes.h"
#include "proto/base/status.h"
#include "worker/model/mapped_file.h"
#include "worker/model/safetensors.h"

namespace lexico::inspect {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMagicBytes = 4;

bool BeginsWith(std::span<const uint8_t> bytes, std::string_view magic) {
  return bytes.size() >= magic.size() && std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
}

// The first bytes as text for a message, others than printable ones as \xNN.
std::string Beginning(std::span<const uint8_t> bytes) {
  std::string text;
  for (const uint8_t b : bytes.first(std::min<size_t>(bytes.size(), 8))) {
    text +=
        b >= 0x20 && b < 0x7f ? std::string(1, static_cast<char>(b)) : fmt::format("\\x{:02x}", b);
  }
  return text;
}

// A u64 that fits the file, then a JSON object.
bool LooksLikeSafetensors(std::span<const uint8_t> bytes) {
  if (bytes.size() < 9) return false;
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof(header));
  return header >= 2 && header <= bytes.size() - 8 && bytes[8] == '{';
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t n : shape) text += (text.empty() ? "" : ", ") + std::to_string(n);
  return "[" + text + "]";
}

// "layers.3.k": a dictionary's tensor.
bool IsDictionaryName(std::string_view name) {
  constexpr std::string_view kBegin = "layers.";
  if (name.substr(0, kBegin.size()) != kBegin || name.size() < kBegin.size() + 3) return false;
  const std::string_view number = name.substr(kBegin.size(), name.size() - kBegin.size() - 2);
  const std::string_view end = name.substr(name.size() - 2);
  return (end == ".k" || end == ".v") &&
         std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; });
}

void AddTensorDamage(const std::shared_ptr<const worker::SafetensorsFile>& file,
                     const worker::ModelWeights& weights, std::span<const uint8_t> bytes,
                     Report* report) {
  for (const auto& [name, tensor] : file->tensors()) {
    if (!IsDictionaryName(name)) continue;
    const auto damaged = [&, &name = name, &tensor = tensor](const absl::Status& status) {
      report->damage.push_back({static_cast<uint64_t>(tensor.bytes.data() - bytes.data()),
                                tensor.bytes.size(),
                                fmt::format("{}: {}", name, std::string(status.message()))});
    };
    if (tensor.shape.size() != 2) {
      damaged(absl::InvalidArgumentError("it is no matrix: " + ShapeText(tensor.shape)));
      continue;
    }
    const auto view = weights.Find(name, {tensor.shape[0], tensor.shape[1]});
    const absl::Status rows = view.ok() ? kernels::ReadUnitAtoms(*view).status() : view.status();
    if (!rows.ok()) damaged(rows);
  }
}

Report InspectSafetensors(const std::string& path, std::span<const uint8_t> bytes) {
  Report report{.path = path, .kind = "safetensors", .bytes = bytes.size()};
  const auto file = worker::SafetensorsFile::FromBytes(
      path, std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  if (!file.ok()) {
    report.damage.push_back({0, bytes.size(), std::string(file.status().message())});
    return report;
  }
  const auto& tensors = (*file)->tensors();
  const auto first = std::find_if(tensors.begin(), tensors.end(), [](const auto& tensor) {
    return IsDictionaryName(tensor.first);
  });
  if (first != tensors.end()) report.kind = "dictionary";
  report.facts["tensors"] = tensors.size();
  if (first != tensors.end()) {
    report.facts["first"] =
        fmt::format("{} {} {}", first->first, first->second.dtype, ShapeText(first->second.shape));
  }
  const worker::ModelWeights weights = worker::ModelWeights::FromFile(*file);
  const int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  report.facts["fingerprint"] = weights.ComputeFingerprint(threads).ToHex();
  for (const auto& [name, value] : (*file)->metadata()) report.facts[name] = value;
  if (const absl::Status finite = weights.CheckFinite(threads); !finite.ok()) {
    report.damage.push_back({0, bytes.size(), std::string(finite.message())});
    return report;
  }
  // Of the copy that FromBytes holds: offsets count from its first byte.
  const uint8_t* data = nullptr;
  for (const auto& [name, tensor] : tensors) {
    if (data == nullptr || tensor.bytes.data() < data) data = tensor.bytes.data();
  }
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (data != nullptr) {
    AddTensorDamage(*file, weights, {data - 8 - header, bytes.size()}, &report);
  }
  return report;
}

}  // namespace

Report InspectJournal(const std::string& path, std::span<const uint8_t> bytes) {
  Report report{.path = path, .kind = "journal", .bytes = bytes.size()};
  const auto contents =
      coord::ParseJournal({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
  if (!contents.ok()) {
    report.damage.push_back({0, bytes.size(), std::string(contents.status().message())});
    return report;
  }
  report.facts["revision"] = contents->revision;
  report.facts["entries"] = contents->entries.size();
  std::map<std::string, uint64_t> kinds;
  for (const auto& [key, entry] : contents->entries) ++kinds[key.substr(0, key.find('/'))];
  for (const auto& [kind, n] : kinds) report.facts["entries of " + kind] = n;
  report.facts["snapshot_bytes"] = contents->snapshot_bytes;
  // An interrupted write, which nobody was told of; the coordinator cuts it off.
  report.facts["torn_bytes"] = contents->torn_bytes;
  return report;
}

absl::StatusOr<Report> InspectFile(const std::string& path, const Options& options) {
  LEXICO_ASSIGN_OR_RETURN(const worker::MappedFile file, worker::MappedFile::Open(path));
  const std::span<const uint8_t> bytes = file.bytes();
  if (BeginsWith(bytes, "LXSG") || fs::path(path).extension() == ".lxsg") {
    return InspectSegment(path, bytes, options);
  }
  if (BeginsWith(bytes, "LXPG")) return InspectPage(path, bytes);
  if (BeginsWith(bytes, "LXJL")) return InspectJournal(path, bytes);
  if (LooksLikeSafetensors(bytes) || fs::path(path).extension() == ".safetensors") {
    return InspectSafetensors(path, bytes);
  }
  Report report{.path = path, .kind = "unknown", .bytes = bytes.size()};
  report.damage.push_back(
      {0, std::min<uint64_t>(bytes.size(), kMagicBytes),
       bytes.empty() ? "the file is empty"
                     : fmt::format("it begins with '{}': no segment (LXSG), page (LXPG), journal "
                                   "(LXJL) or safetensors file does",
                                   Beginning(bytes))});
  return report;
}

absl::StatusOr<std::vector<std::string>> FilesToInspect(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    if (fs::exists(path, error)) return std::vector<std::string>{path};
    return absl::NotFoundError(fmt::format("{}: no such file or folder", path));
  }
  constexpr std::string_view kJournal = "journal";
  constexpr std::array<std::string_view, 2> kEndings = {".lxsg", ".safetensors"};
  std::vector<std::string> files;
  fs::recursive_directory_iterator it(path, fs::directory_options::skip_permission_denied, error);
  for (; !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    const std::string ending = it->path().extension().string();
    if (it->path().filename() == kJournal ||
        std::find(kEndings.begin(), kEndings.end(), ending) != kEndings.end()) {
      files.push_back(it->path().string());
    }
  }
  if (error) return absl::UnavailableError(fmt::format("{}: {}", path, error.message()));
  if (files.empty()) {
    return absl::NotFoundError(fmt::format(
        "{}: no *.lxsg, journal or *.safetensors in this folder or below; name a file", path));
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace lexico::inspect

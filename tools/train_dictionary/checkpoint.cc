#include "tools/train_dictionary/checkpoint.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <span>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "proto/base/hash.h"
#include "proto/base/status.h"
#include "tools/train_dictionary/vector_set.h"
#include "worker/model/safetensors.h"

namespace lexico::train_dictionary {
namespace {

constexpr const char* kFormat = "lexico training checkpoint 1";

std::span<const uint8_t> BytesOf(const std::vector<float>& values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float)};
}

std::string Fact(const worker::SafetensorsFile& file, const std::string& name) {
  const auto it = file.metadata().find(name);
  return it == file.metadata().end() ? std::string() : it->second;
}

absl::Status CheckRun(const worker::SafetensorsFile& file, const Facts& run) {
  if (Fact(file, "format") != kFormat) {
    return absl::InvalidArgumentError(
        fmt::format("is not a training checkpoint: its format is "
                    "\"{}\", not \"{}\"; name another file with "
                    "--checkpoint",
                    Fact(file, "format"), kFormat));
  }
  std::string differences;
  for (const auto& [name, value] : run) {
    const std::string there = Fact(file, "run." + name);
    if (there == value) continue;
    differences += fmt::format("{}{} is {} there, {} here", differences.empty() ? "" : "; ", name,
                               there.empty() ? "not given" : there, value);
  }
  if (differences.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format(
      "is of another run: {}; remove it, or name another file with --checkpoint", differences));
}

absl::StatusOr<std::vector<float>> ReadTensor(const worker::SafetensorsFile& file,
                                              const std::string& name,
                                              const std::vector<int64_t>& shape, uint32_t* crc) {
  const auto it = file.tensors().find(name);
  int64_t n = 1;
  for (const int64_t dim : shape) n *= dim;
  if (it == file.tensors().end() || it->second.dtype != "F32" || it->second.shape != shape) {
    return absl::DataLossError(fmt::format("tensor {} is missing or of another shape", name));
  }
  std::vector<float> values(n);
  std::memcpy(values.data(), it->second.bytes.data(), it->second.bytes.size());
  *crc = base::Crc32c(it->second.bytes, *crc);
  return values;
}

absl::StatusOr<Checkpoint> Read(const worker::SafetensorsFile& file, const Facts& run,
                                int n_dictionaries, int n_atoms, int head_dim) {
  LEXICO_RETURN_IF_ERROR(CheckRun(file, run));
  Checkpoint checkpoint;
  if (!absl::SimpleAtoi(Fact(file, "rounds_done"), &checkpoint.n_rounds_done)) {
    return absl::DataLossError("rounds_done is not a number");
  }
  uint32_t crc = 0;
  for (int i = 0; i < n_dictionaries; ++i) {
    const std::string name = DictionaryName(i);
    Atoms atoms{.n_atoms = n_atoms, .head_dim = head_dim, .rows = {}, .weights = {}};
    LEXICO_ASSIGN_OR_RETURN(atoms.rows, ReadTensor(file, name, {n_atoms, head_dim}, &crc));
    LEXICO_ASSIGN_OR_RETURN(atoms.weights, ReadTensor(file, name + ".weights", {n_atoms}, &crc));
    checkpoint.atoms.push_back(std::move(atoms));
  }
  if (fmt::format("{:08x}", crc) != Fact(file, "crc32c")) {
    return absl::DataLossError(fmt::format(
        "its bytes have CRC32C {:08x}, {} was written; remove it", crc, Fact(file, "crc32c")));
  }
  return checkpoint;
}

}  // namespace

int64_t CheckpointBytes(int n_dictionaries, int n_atoms, int head_dim) {
  return int64_t{n_dictionaries} * n_atoms * (head_dim + 1) * static_cast<int64_t>(sizeof(float));
}

absl::Status WriteCheckpoint(const std::string& path, const Facts& run,
                             const std::vector<Atoms>& atoms, int n_rounds_done) {
  std::vector<OutTensor> tensors;
  uint32_t crc = 0;
  for (size_t i = 0; i < atoms.size(); ++i) {
    const Atoms& each = atoms[i];
    const std::string name = DictionaryName(static_cast<int>(i));
    tensors.push_back({name, "F32", {each.n_atoms, each.head_dim}, BytesOf(each.rows)});
    tensors.push_back({name + ".weights", "F32", {each.n_atoms}, BytesOf(each.weights)});
    crc = base::Crc32c(BytesOf(each.rows), crc);
    crc = base::Crc32c(BytesOf(each.weights), crc);
  }
  Facts metadata = {{"format", kFormat},
                    {"rounds_done", fmt::format("{}", n_rounds_done)},
                    {"crc32c", fmt::format("{:08x}", crc)}};
  for (const auto& [name, value] : run) metadata.emplace_back("run." + name, value);
  return WriteWhole(path, SafetensorsBytes(tensors, metadata), "--checkpoint");
}

absl::StatusOr<Checkpoint> ReadCheckpoint(const std::string& path, const Facts& run,
                                          int n_dictionaries, int n_atoms, int head_dim) {
  LEXICO_ASSIGN_OR_RETURN(const auto file, worker::SafetensorsFile::Open(path));
  auto checkpoint = Read(*file, run, n_dictionaries, n_atoms, head_dim);
  if (!checkpoint.ok()) return base::Annotate(checkpoint.status(), path);
  return checkpoint;
}

}  // namespace lexico::train_dictionary

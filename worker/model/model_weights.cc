// ModelWeights of safetensors.h: the tensors of a folder, whatever files they lie in.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <limits>
#include <set>
#include <thread>
#include <type_traits>

#include "absl/status/status.h"
#include "proto/base/limits.h"
#include "proto/base/read_file.h"
#include "proto/base/status.h"
#include "worker/model/json_file.h"
#include "worker/model/safetensors.h"

namespace lexico::worker {
namespace {

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

// Shard -> the tensors the index says it holds.
using ShardMap = std::map<std::string, std::set<std::string>>;

absl::StatusOr<ShardMap> ReadIndex(const std::string& path) {
  LEXICO_ASSIGN_OR_RETURN(const std::string text,
                          base::ReadTextFile(path, base::kJsonFileBytesMax));
  LEXICO_ASSIGN_OR_RETURN(const nlohmann::json index, ParseJsonObject(path, text));
  const auto weight_map = index.find("weight_map");
  if (weight_map == index.end() || !weight_map->is_object()) {
    return absl::InvalidArgumentError(fmt::format("{}: weight_map must be an object", path));
  }
  ShardMap shards;
  for (const auto& [tensor, file] : weight_map->items()) {
    const std::string* shard = file.get_ptr<const std::string*>();
    // A plain name of this folder: an index must not make us read another place.
    const bool plain = shard != nullptr && !shard->empty() && *shard != "." && *shard != ".." &&
                       shard->find('/') == std::string::npos &&
                       shard->find('\0') == std::string::npos;
    if (!plain) {
      return absl::InvalidArgumentError(
          fmt::format("{}: weight_map puts {} into {}, which is not the name of a file in this "
                      "folder",
                      path, JsonForMessage(tensor), JsonForMessage(file)));
    }
    shards[*shard].insert(tensor);
    if (shards.size() > base::kShardsMax) {
      return absl::InvalidArgumentError(
          fmt::format("{}: more than {} shards", path, base::kShardsMax));
    }
  }
  if (shards.empty()) return absl::InvalidArgumentError(path + ": weight_map is empty");
  return shards;
}

absl::Status CheckShard(const SafetensorsFile& shard, const std::set<std::string>& listed) {
  for (const std::string& name : listed) {
    if (!shard.tensors().contains(name)) {
      return absl::InvalidArgumentError(fmt::format("{}: tensor {} is missing, but {} puts it here",
                                                    shard.path(), name, kIndexFile));
    }
  }
  for (const auto& [name, tensor] : shard.tensors()) {
    if (!listed.contains(name)) {
      return absl::InvalidArgumentError(fmt::format(
          "{}: holds tensor {}, but {} does not put it here", shard.path(), name, kIndexFile));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<kernels::DType> FloatDType(const std::string& dtype) {
  if (dtype == "F32") return kernels::DType::kF32;
  if (dtype == "F16") return kernels::DType::kF16;
  if (dtype == "BF16") return kernels::DType::kBF16;
  return absl::InvalidArgumentError(
      fmt::format("dtype is {}, supported are F32, F16 and BF16", dtype));
}

// The first element whose exponent has all bits set, or -1. Looks for whether there is one with a
// maximum, which is what the compiler turns into wide loads.
template <typename Bits>
int64_t FirstNonFinite(std::span<const uint8_t> bytes, Bits infinity) {
  using Signed = std::make_signed_t<Bits>;
  constexpr auto kMagnitude = static_cast<Signed>(std::numeric_limits<Signed>::max());
  const auto at = [&](size_t i) {
    Signed value;
    std::memcpy(&value, bytes.data() + i * sizeof(Bits), sizeof(value));
    return static_cast<Signed>(value & kMagnitude);
  };
  const auto limit = static_cast<Signed>(infinity);
  constexpr size_t kPiece = 4096;
  const size_t n = bytes.size() / sizeof(Bits);
  for (size_t begin = 0; begin < n; begin += kPiece) {
    const size_t end = std::min(n, begin + kPiece);
    Signed largest = 0;
    for (size_t i = begin; i < end; ++i) largest = std::max(largest, at(i));
    if (largest < limit) continue;
    size_t i = begin;
    while (at(i) < limit) ++i;
    return static_cast<int64_t>(i);
  }
  return -1;
}

int64_t FirstNonFinite(const StoredTensor& tensor) {
  if (tensor.dtype == "BF16") return FirstNonFinite<uint16_t>(tensor.bytes, 0x7f80);
  if (tensor.dtype == "F16") return FirstNonFinite<uint16_t>(tensor.bytes, 0x7c00);
  if (tensor.dtype == "F32") return FirstNonFinite<uint32_t>(tensor.bytes, 0x7f800000);
  return -1;
}

}  // namespace

absl::StatusOr<ModelWeights> ModelWeights::Open(const std::string& model_dir) {
  const std::filesystem::path dir(model_dir);
  ModelWeights weights;
  std::error_code ignored;
  if (std::filesystem::exists(dir / kSingleFile, ignored)) {
    LEXICO_ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open((dir / kSingleFile).string()));
    LEXICO_RETURN_IF_ERROR(weights.AddFile(std::move(file)));
    return weights;
  }
  const std::string index_path = (dir / kIndexFile).string();
  if (!std::filesystem::exists(index_path, ignored)) {
    return absl::NotFoundError(
        fmt::format("{}: neither {} nor {} is there", model_dir, kSingleFile, kIndexFile));
  }
  LEXICO_ASSIGN_OR_RETURN(const ShardMap shards, ReadIndex(index_path));
  for (const auto& [name, listed] : shards) {
    LEXICO_ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open((dir / name).string()));
    LEXICO_RETURN_IF_ERROR(CheckShard(*file, listed));
    LEXICO_RETURN_IF_ERROR(weights.AddFile(std::move(file)));
  }
  return weights;
}

ModelWeights ModelWeights::FromFile(std::shared_ptr<const SafetensorsFile> file) {
  ModelWeights weights;
  // One file holds no name twice, so this cannot fail.
  const absl::Status added = weights.AddFile(std::move(file));
  LEXICO_CHECK(added.ok());
  return weights;
}

absl::Status ModelWeights::AddFile(std::shared_ptr<const SafetensorsFile> file) {
  for (const auto& [name, tensor] : file->tensors()) {
    const auto [it, inserted] = tensors_.emplace(name, Located{file.get(), &tensor});
    if (!inserted) {
      return absl::InvalidArgumentError(fmt::format("tensor {} is both in {} and in {}", name,
                                                    it->second.file->path(), file->path()));
    }
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

std::vector<std::string> ModelWeights::Names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const auto& [name, located] : tensors_) names.push_back(name);
  return names;
}

absl::StatusOr<kernels::TensorView> ModelWeights::Find(std::string_view name,
                                                       std::initializer_list<int64_t> shape) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    const std::string where = files_.size() == 1 ? files_[0]->path()
                              : files_.empty()   ? "no file"
                                                 : fmt::format("{} shards", files_.size());
    return absl::NotFoundError(fmt::format("tensor {} is missing in {}", name, where));
  }
  const StoredTensor& tensor = *it->second.tensor;
  const std::string context = fmt::format("{}: tensor {}", it->second.file->path(), name);
  const auto dtype = FloatDType(tensor.dtype);
  if (!dtype.ok()) return base::Annotate(dtype.status(), context);
  if (!std::equal(shape.begin(), shape.end(), tensor.shape.begin(), tensor.shape.end())) {
    return absl::InvalidArgumentError(fmt::format("{}: shape is [{}], the model needs [{}]",
                                                  context, fmt::join(tensor.shape, ", "),
                                                  fmt::join(shape, ", ")));
  }
  const size_t element_bytes = kernels::DTypeBytes(*dtype);
  if (reinterpret_cast<uintptr_t>(tensor.bytes.data()) % element_bytes != 0) {
    return absl::InvalidArgumentError(
        fmt::format("{}: is not aligned to its elements of {} bytes; write the file again with "
                    "safetensors 0.3 or newer",
                    context, element_bytes));
  }
  return kernels::TensorView(tensor.bytes.data(), *dtype, shape);
}

template <typename Visit>
void ModelWeights::ForEachTensor(int threads, const Visit& visit) const {
  std::vector<std::pair<std::string_view, Located>> tensors(tensors_.begin(), tensors_.end());
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < tensors.size(); i = next++) {
      visit(i, tensors[i].first, tensors[i].second);
    }
  };
  std::vector<std::jthread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back(work);
  work();
}

size_t ModelWeights::bytes() const {
  size_t bytes = 0;
  for (const auto& [name, located] : tensors_) bytes += located.tensor->bytes.size();
  return bytes;
}

absl::Status ModelWeights::CheckFinite(int threads) const {
  std::vector<absl::Status> found(tensors_.size());
  ForEachTensor(threads, [&](size_t i, std::string_view name, const Located& located) {
    const StoredTensor& tensor = *located.tensor;
    const int64_t at = FirstNonFinite(tensor);
    if (at < 0) return;
    found[i] = absl::InvalidArgumentError(
        fmt::format("{}: tensor {}: element {} of [{}] is not a finite number; the file is damaged "
                    "or was written by a training that diverged",
                    located.file->path(), name, at, fmt::join(tensor.shape, ", ")));
  });
  absl::Status first;
  for (const absl::Status& status : found) first.Update(status);
  return first;
}

base::Fingerprint ModelWeights::ComputeFingerprint(int threads) const {
  std::vector<base::Fingerprint> digests(tensors_.size());
  ForEachTensor(threads, [&](size_t i, std::string_view, const Located& located) {
    digests[i] = base::FingerprintBuilder().Add(located.tensor->bytes).Finish();
  });
  base::FingerprintBuilder builder;
  size_t i = 0;
  for (const auto& [name, located] : tensors_) {
    builder.Add(name).Add(located.tensor->dtype).AddInt(located.tensor->shape.size());
    for (const int64_t dim : located.tensor->shape) builder.AddInt(static_cast<uint64_t>(dim));
    builder.Add(digests[i++].bytes);
  }
  return builder.Finish();
}

}  // namespace lexico::worker

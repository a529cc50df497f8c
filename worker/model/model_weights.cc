// ModelWeights of safetensors.h: the tensors of a folder, whatever files they lie in.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <atomic>
#include <filesystem>
#include <set>
#include <thread>

#include "absl/status/status.h"
#include "proto/base/limits.h"
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
  LEXICO_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, base::kJsonFileBytesMax));
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

base::Fingerprint ModelWeights::ComputeFingerprint(int threads) const {
  std::vector<const StoredTensor*> tensors;
  for (const auto& [name, located] : tensors_) tensors.push_back(located.tensor);
  std::vector<base::Fingerprint> digests(tensors.size());
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < tensors.size(); i = next++) {
      digests[i] = base::FingerprintBuilder().Add(tensors[i]->bytes).Finish();
    }
  };
  {
    std::vector<std::jthread> helpers;
    for (int i = 1; i < threads; ++i) helpers.emplace_back(work);
    work();
  }
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

#include "worker/model/dictionary_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "proto/base/limits.h"
#include "proto/base/status.h"
#include "worker/model/safetensors.h"

namespace lexico::worker {
namespace {

std::string TensorName(int layer, bool value) {
  return fmt::format("layers.{}.{}", layer, value ? 'v' : 'k');
}

// n_atoms, from the shape of the first tensor; Find checks that the others agree.
absl::StatusOr<int> ReadAtoms(const SafetensorsFile& file, const ModelConfig& config) {
  const std::string name = TensorName(0, false);
  const auto it = file.tensors().find(name);
  if (it == file.tensors().end()) {
    return absl::InvalidArgumentError(
        fmt::format("tensor {} is missing; this is not a dictionary file", name));
  }
  const std::vector<int64_t>& shape = it->second.shape;
  if (shape.size() != 2) {
    return absl::InvalidArgumentError(fmt::format(
        "tensor {} has {} dimensions, must have 2: [n_atoms, head_dim]", name, shape.size()));
  }
  if (shape[1] != config.head_dim) {
    return absl::InvalidArgumentError(fmt::format(
        "tensor {} has head_dim {}, the model's is {}; it is a dictionary of another model", name,
        shape[1], config.head_dim));
  }
  if (shape[0] < base::kAtomsMin || shape[0] > base::kAtomsMax) {
    return absl::InvalidArgumentError(fmt::format("tensor {} has {} atoms, must be in {} .. {}",
                                                  name, shape[0], base::kAtomsMin,
                                                  base::kAtomsMax));
  }
  return static_cast<int>(shape[0]);
}

absl::Status CheckMetadata(const SafetensorsFile& file, int n_atoms,
                           const base::Fingerprint& model_fingerprint) {
  const auto& metadata = file.metadata();
  if (const auto it = metadata.find("atoms"); it != metadata.end()) {
    if (it->second != fmt::format("{}", n_atoms)) {
      return absl::InvalidArgumentError(
          fmt::format("metadata says {} atoms, the tensors have {}", it->second, n_atoms));
    }
  }
  if (const auto it = metadata.find("model_fingerprint"); it != metadata.end()) {
    if (it->second != model_fingerprint.ToHex()) {
      return absl::InvalidArgumentError(fmt::format("was trained for model {}, this is model {}",
                                                    it->second, model_fingerprint.ToHex()));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckNames(const SafetensorsFile& file, int n_layers) {
  std::vector<std::string> expected;
  for (int layer = 0; layer < n_layers; ++layer) {
    for (const bool value : {false, true}) expected.push_back(TensorName(layer, value));
  }
  for (const std::string& name : expected) {
    if (!file.tensors().contains(name)) {
      return absl::InvalidArgumentError(
          fmt::format("tensor {} is missing; the model has {} layers", name, n_layers));
    }
  }
  for (const auto& [name, tensor] : file.tensors()) {
    if (std::find(expected.begin(), expected.end(), name) == expected.end()) {
      return absl::InvalidArgumentError(
          fmt::format("holds tensor {}, but the model has {} layers", name, n_layers));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ModelDictionary>> ModelDictionary::Load(
    const std::string& path, const ModelConfig& config, const base::Fingerprint& model_fingerprint,
    const kernels::Stream& stream) {
  LEXICO_ASSIGN_OR_RETURN(const auto file, SafetensorsFile::Open(path));
  const auto n_atoms = ReadAtoms(*file, config);
  if (!n_atoms.ok()) return base::Annotate(n_atoms.status(), path);
  LEXICO_RETURN_IF_ERROR(base::Annotate(CheckNames(*file, config.n_layers), path));
  LEXICO_RETURN_IF_ERROR(base::Annotate(CheckMetadata(*file, *n_atoms, model_fingerprint), path));

  std::shared_ptr<ModelDictionary> dictionary(new ModelDictionary);
  dictionary->n_atoms_ = *n_atoms;
  dictionary->layers_.resize(config.n_layers);
  const ModelWeights tensors = ModelWeights::FromFile(file);
  for (int layer = 0; layer < config.n_layers; ++layer) {
    for (const bool value : {false, true}) {
      const std::string name = TensorName(layer, value);
      LEXICO_ASSIGN_OR_RETURN(const kernels::TensorView view,
                              tensors.Find(name, {*n_atoms, config.head_dim}));
      auto prepared = kernels::PrepareDictionary(view, stream);
      if (!prepared.ok()) {
        return base::Annotate(prepared.status(), fmt::format("{}: tensor {}", path, name));
      }
      DictionaryPair& pair = dictionary->layers_[layer];
      (value ? pair.v : pair.k) = *std::move(prepared);
    }
  }
  dictionary->fingerprint_ = tensors.ComputeFingerprint(stream.threads());
  return dictionary;
}

size_t ModelDictionary::bytes() const {
  size_t bytes = 0;
  for (const DictionaryPair& pair : layers_) bytes += pair.k->bytes() + pair.v->bytes();
  return bytes;
}

absl::StatusOr<std::string> FindDefaultDictionary(const std::string& model_dir) {
  const std::filesystem::path dir = std::filesystem::path(model_dir) / "dictionaries";
  std::vector<std::string> names;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(dir, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.ends_with(".safetensors")) names.push_back(name);
  }
  if (error) {
    return absl::NotFoundError(
        fmt::format("{}: cannot list: {}; a model needs its dictionaries there to compress its "
                    "cache",
                    dir.string(), error.message()));
  }
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    if (name.find("N4096") != std::string::npos) return (dir / name).string();
  }
  return absl::NotFoundError(fmt::format(
      "{}: no *N4096*.safetensors among {} dictionaries{}{}; name one explicitly", dir.string(),
      names.size(), names.empty() ? "" : ", the first is ", names.empty() ? "" : names.front()));
}

}  // namespace lexico::worker

#include "tools/random_model/random_model.h"

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "proto/base/limits.h"
#include "proto/base/options.h"
#include "proto/base/status.h"
#include "tools/random_model/random_values.h"
#include "tools/random_model/tensor_file.h"

namespace lexico::random_model {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kShardBytesMax = int64_t{4} << 30;
constexpr int64_t kElementBytes = 2;
// Arrays 0, 1, ... are tensors in the order of TensorsOf; dictionaries come after this one.
constexpr uint64_t kFirstDictionary = uint64_t{1} << 32;

absl::Status WriteText(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (file) return absl::OkStatus();
  return absl::UnavailableError(fmt::format("{}: cannot be written", path.string()));
}

absl::Status PrepareFolder(const fs::path& out, int64_t bytes) {
  std::error_code error;
  fs::create_directories(out, error);
  if (error) {
    return absl::UnavailableError(
        fmt::format("{}: cannot be made: {}", out.string(), error.message()));
  }
  if (!fs::is_empty(out, error)) {
    return absl::AlreadyExistsError(fmt::format(
        "{} is not empty; remove it or choose another folder with --out", out.string()));
  }
  const fs::space_info space = fs::space(out, error);
  if (!error && space.available < static_cast<uintmax_t>(bytes)) {
    return absl::ResourceExhaustedError(
        fmt::format("{} needs {}, its disk has {} free; fewer layers (--layers) take less",
                    out.string(), base::HumanBytes(static_cast<double>(bytes)),
                    base::HumanBytes(static_cast<double>(space.available))));
  }
  return absl::OkStatus();
}

// How many ids a tokenizer.json has: the largest of vocabulary and added tokens, and one.
absl::StatusOr<int64_t> CountIds(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  const nlohmann::json json = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  const nlohmann::json::json_pointer vocabulary("/model/vocab");
  if (!json.is_object() || !json.contains(vocabulary) || !json[vocabulary].is_object()) {
    return absl::InvalidArgumentError(
        fmt::format("{}: is not a tokenizer.json with model.vocab", path.string()));
  }
  int64_t n = 0;
  for (const auto& [token, id] : json[vocabulary].items()) {
    if (id.is_number_integer()) n = std::max(n, id.get<int64_t>() + 1);
  }
  if (const auto added = json.find("added_tokens"); added != json.end() && added->is_array()) {
    for (const auto& token : *added) n = std::max(n, token.value("id", int64_t{0}) + 1);
  }
  return n;
}

absl::Status CopyTokenizer(const Preset& preset, const fs::path& from, const fs::path& to) {
  LEXICO_ASSIGN_OR_RETURN(const int64_t n_ids, CountIds(from / "tokenizer.json"));
  if (n_ids > preset.vocab_size) {
    return absl::InvalidArgumentError(
        fmt::format("the tokenizer of {} has {} ids, the vocabulary of {} has {}; choose another "
                    "with --tokenizer",
                    from.string(), n_ids, preset.name, preset.vocab_size));
  }
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    std::error_code error;
    fs::copy_file(from / name, to / name, error);
    if (error) {
      return absl::NotFoundError(
          fmt::format("{}: cannot be copied: {}", (from / name).string(), error.message()));
    }
  }
  return absl::OkStatus();
}

std::vector<std::vector<FileTensor>> Shards(const Preset& preset, uint64_t seed) {
  std::vector<std::vector<FileTensor>> shards(1);
  int64_t shard_bytes = 0;
  uint64_t array = 0;
  for (TensorSpec& spec : TensorsOf(preset)) {
    FileTensor tensor{.name = std::move(spec.name), .dtype = "BF16", .shape = spec.shape};
    const Stream stream{seed, array++};
    tensor.fill = [stream, mean = spec.mean, deviation = spec.deviation](
                      int64_t first, std::span<uint16_t> values) {
      FillBf16(stream, first, mean, deviation, values);
    };
    const int64_t bytes = tensor.n_elements() * kElementBytes;
    if (shard_bytes > 0 && shard_bytes + bytes > kShardBytesMax) {
      shards.emplace_back();
      shard_bytes = 0;
    }
    shard_bytes += bytes;
    shards.back().push_back(std::move(tensor));
  }
  return shards;
}

std::vector<FileTensor> Dictionaries(const Preset& preset, int n_atoms, uint64_t seed) {
  std::vector<FileTensor> tensors;
  for (int layer = 0; layer < preset.n_layers; ++layer) {
    for (const char kind : {'k', 'v'}) {
      const Stream stream{seed, kFirstDictionary + tensors.size()};
      const int64_t width = preset.head_dim;
      tensors.push_back({.name = fmt::format("layers.{}.{}", layer, kind),
                         .dtype = "F16",
                         .shape = {n_atoms, width},
                         .fill = [stream, width](int64_t first, std::span<uint16_t> values) {
                           for (size_t at = 0; at < values.size(); at += width) {
                             FillUnitRowF16(stream, (first + static_cast<int64_t>(at)) / width,
                                            values.subspan(at, width));
                           }
                         }});
    }
  }
  return tensors;
}

}  // namespace

int64_t BytesOf(const Preset& preset, int n_atoms) {
  int64_t bytes = int64_t{2} * preset.n_layers * n_atoms * preset.head_dim * kElementBytes;
  for (const TensorSpec& spec : TensorsOf(preset)) {
    int64_t n = 1;
    for (const int64_t dim : spec.shape) n *= dim;
    bytes += n * kElementBytes;
  }
  return bytes;
}

double SecondsFor(int64_t bytes, int threads) {
  std::vector<uint16_t> piece(1 << 20);
  const auto begin = std::chrono::steady_clock::now();
  FillBf16(Stream{}, 0, 0, 1, piece);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  const auto n_pieces =
      static_cast<double>(bytes) / static_cast<double>(piece.size() * kElementBytes);
  return seconds.count() * n_pieces / threads;
}

absl::Status WriteRandomModel(const Preset& preset, const RandomModelOptions& options,
                              const std::function<void(double fraction)>& progress) {
  if (options.n_atoms != 0 &&
      (options.n_atoms < base::kAtomsMin || options.n_atoms > base::kAtomsMax)) {
    return absl::InvalidArgumentError(fmt::format("n_atoms is {}, allowed are 0 and {} to {}",
                                                  options.n_atoms, base::kAtomsMin,
                                                  base::kAtomsMax));
  }
  const fs::path out(options.out);
  const int64_t total = BytesOf(preset, options.n_atoms);
  LEXICO_RETURN_IF_ERROR(PrepareFolder(out, total));
  if (!options.tokenizer.empty()) {
    LEXICO_RETURN_IF_ERROR(CopyTokenizer(preset, options.tokenizer, out));
  }
  std::atomic<int64_t> written{0};
  const auto count = [&](int64_t bytes) {
    progress(static_cast<double>(written += bytes) / static_cast<double>(total));
  };
  const std::vector<std::vector<FileTensor>> shards = Shards(preset, options.seed);
  nlohmann::ordered_json weight_map = nlohmann::ordered_json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name =
        shards.size() == 1 ? "model.safetensors"
                           : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    LEXICO_RETURN_IF_ERROR(
        WriteTensorFile((out / name).string(), shards[i], {}, options.threads, count));
    for (const FileTensor& tensor : shards[i]) weight_map[tensor.name] = name;
  }
  if (shards.size() > 1) {
    const nlohmann::ordered_json index = {{"metadata", {{"total_size", total}}},
                                          {"weight_map", weight_map}};
    LEXICO_RETURN_IF_ERROR(WriteText(out / "model.safetensors.index.json", index.dump(2) + "\n"));
  }
  if (options.n_atoms > 0) {
    const fs::path folder = out / "dictionaries";
    fs::create_directory(folder);
    // The name by which a worker finds its default dictionary holds N4096.
    LEXICO_RETURN_IF_ERROR(WriteTensorFile(
        (folder / fmt::format("random-N{}.safetensors", options.n_atoms)).string(),
        Dictionaries(preset, options.n_atoms, options.seed),
        {{"atoms", fmt::format("{}", options.n_atoms)}, {"training", "none: random unit rows"}},
        options.threads, count));
  }
  return WriteText(out / "config.json", ConfigJson(preset));
}

}  // namespace lexico::random_model

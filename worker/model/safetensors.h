// Tensors of a model folder, memory-mapped and never copied.
//
// The safetensors format (github.com/huggingface/safetensors, README "Format"):
//   u64      n, the bytes of the header, little-endian
//   n bytes  JSON: {"__metadata__": {text: text}, NAME: {"dtype", "shape", "data_offsets"}, ...},
//            may end in spaces
//   rest     the tensors' bytes; data_offsets [begin, end) count from here, cover it without gap or
//            overlap, and end - begin = product(shape) * sizeof(dtype)
//
// The header is hostile until proven otherwise: its length is bounded by limits.h and the file, the
// grammar above is enforced while parsing (no other nesting, no repeated name or field), and no
// view ever leaves the file.
//
// Errors: DataLoss when the bytes break the format (truncated, overlapping, not JSON);
// InvalidArgument when they are well formed but not what was asked for (dtype, shape); NotFound for
// an absent file or tensor. Messages name the file, the tensor and both values.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/api/tensor.h"
#include "proto/base/hash.h"
#include "worker/model/mapped_file.h"

namespace lexico::worker {

// One tensor where it lies. `bytes` points into the file that owns it.
struct StoredTensor {
  std::string dtype;  // as the file spells it: "BF16", "F32", "I64", ...
  std::vector<int64_t> shape;
  std::span<const uint8_t> bytes;
};

// One file. Immutable; any thread may read. Views live as long as the file.
class SafetensorsFile {
 public:
  static absl::StatusOr<std::shared_ptr<const SafetensorsFile>> Open(const std::string& path);
  // The same from memory; `path` is only the name in messages.
  static absl::StatusOr<std::shared_ptr<const SafetensorsFile>> FromBytes(const std::string& path,
                                                                          std::string bytes);

  const std::string& path() const { return path_; }
  // By name, in lexicographic order.
  const std::map<std::string, StoredTensor, std::less<>>& tensors() const { return tensors_; }
  const std::map<std::string, std::string, std::less<>>& metadata() const { return metadata_; }

 private:
  SafetensorsFile() = default;
  absl::Status Parse(std::span<const uint8_t> bytes);

  std::string path_;
  MappedFile mapping_;
  std::string owned_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
  std::map<std::string, std::string, std::less<>> metadata_;
};

// All tensors of a model folder: model.safetensors or, where that is absent, the shards that
// model.safetensors.index.json names. Shards must lie in the folder itself, hold exactly the
// tensors that the index says, and no tensor twice. Immutable; any thread may read; copies share
// the mappings.
class ModelWeights {
 public:
  static absl::StatusOr<ModelWeights> Open(const std::string& model_dir);
  // A set of one file, for dictionaries.
  static ModelWeights FromFile(std::shared_ptr<const SafetensorsFile> file);

  bool Has(std::string_view name) const { return tensors_.contains(name); }
  std::vector<std::string> Names() const;

  // A view for the kernels: F32, F16 or BF16, aligned to its elements, of exactly `shape` (at most
  // four dimensions). NotFound for an absent name; InvalidArgument with both values otherwise.
  absl::StatusOr<kernels::TensorView> Find(std::string_view name,
                                           std::initializer_list<int64_t> shape) const;

  // Of all tensors, as they lie in the files.
  size_t bytes() const;

  // InvalidArgument with the file, the tensor and the place where a value of type F32, F16 or BF16
  // is infinite or no number. Reads every byte, tensors in parallel on `threads` threads.
  absl::Status CheckFinite(int threads) const;

  // SHA-256 of (name, dtype, shape, SHA-256 of the bytes) of every tensor in the order of names:
  // the same on every machine, however the tensors are sharded or ordered in files. Reads every
  // byte, tensors in parallel on `threads` threads (about 1 GB/s each): a changed weight is never
  // missed.
  base::Fingerprint ComputeFingerprint(int threads) const;

 private:
  struct Located {
    const SafetensorsFile* file;
    const StoredTensor* tensor;
  };
  absl::Status AddFile(std::shared_ptr<const SafetensorsFile> file);
  // Calls `visit` with the number and place of every tensor, in the order of names, on `threads`
  // threads.
  template <typename Visit>
  void ForEachTensor(int threads, const Visit& visit) const;

  std::vector<std::shared_ptr<const SafetensorsFile>> files_;
  std::map<std::string, Located, std::less<>> tensors_;
};

}  // namespace lexico::worker

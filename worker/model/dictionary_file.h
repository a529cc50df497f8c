// The dictionaries of a model: one safetensors file with `layers.L.k` and `layers.L.v`, each
// [n_atoms, head_dim] F16 or F32 with unit rows, all of one n_atoms.
//
// Metadata that is checked where present: "atoms" (n_atoms) and "model_fingerprint" (32 hexadecimal
// digits, Transformer::fingerprint): a dictionary of another model of the same shape would code
// badly, and no other check could tell. The rest describes the training and is not interpreted.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/api/dictionary.h"
#include "kernels/api/stream.h"
#include "proto/base/hash.h"
#include "worker/model/config.h"

namespace lexico::worker {

// The two dictionaries of a layer, shared by its KV heads.
struct DictionaryPair {
  std::shared_ptr<const kernels::PreparedDictionary> k;
  std::shared_ptr<const kernels::PreparedDictionary> v;
};

// Immutable; any thread may read.
class ModelDictionary {
 public:
  // Refused with both values: layers missing or beyond config.n_layers, head_dim other than the
  // model's, n_atoms outside limits.h or not the same everywhere, rows that are not unit vectors,
  // metadata that contradicts. The message names the file and the tensor.
  static absl::StatusOr<std::shared_ptr<const ModelDictionary>> Load(
      const std::string& path, const ModelConfig& config,
      const base::Fingerprint& model_fingerprint, const kernels::Stream& stream);

  int n_atoms() const { return n_atoms_; }
  // REQUIRES: 0 <= layer < n_layers.
  const DictionaryPair& layer(int layer) const { return layers_[layer]; }
  // Of names, shapes, types and all bytes of the tensors (ModelWeights::ComputeFingerprint): what
  // the atom indices of a page refer to.
  const base::Fingerprint& fingerprint() const { return fingerprint_; }
  // Memory held by the prepared forms.
  size_t bytes() const;

 private:
  ModelDictionary() = default;

  int n_atoms_ = 0;
  std::vector<DictionaryPair> layers_;
  base::Fingerprint fingerprint_;
};

// The default dictionary of a model folder: the file of model_dir/dictionaries whose name holds
// "N4096" (the paper's main n_atoms) and ends in .safetensors; the first by name when there are
// several. NotFound says what is there instead.
absl::StatusOr<std::string> FindDefaultDictionary(const std::string& model_dir);

}  // namespace lexico::worker

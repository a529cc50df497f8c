#include "tools/train_dictionary/start_atoms.h"

#include <utility>

#include "kernels/api/unit_atoms.h"
#include "proto/base/status.h"
#include "tools/train_dictionary/vector_set.h"
#include "worker/model/safetensors.h"

namespace lexico::train_dictionary {

absl::StatusOr<StartAtoms> ReadStartAtoms(const std::string& path,
                                          const worker::ModelConfig& config, int n_atoms) {
  LEXICO_ASSIGN_OR_RETURN(const auto file, worker::SafetensorsFile::Open(path));
  const worker::ModelWeights tensors = worker::ModelWeights::FromFile(file);
  StartAtoms start;
  for (int i = 0; i < 2 * config.n_layers; ++i) {
    const auto view = tensors.Find(DictionaryName(i), {n_atoms, config.head_dim});
    if (!view.ok()) return base::Annotate(view.status(), path);
    auto rows = kernels::ReadUnitAtoms(*view);
    if (!rows.ok()) return base::Annotate(rows.status(), path + ": " + DictionaryName(i));
    start.atoms.push_back({.n_atoms = n_atoms,
                           .head_dim = config.head_dim,
                           .rows = std::move(rows->rows),
                           .weights = std::vector<float>(n_atoms)});
  }
  start.fingerprint = tensors.ComputeFingerprint(1);
  return start;
}

}  // namespace lexico::train_dictionary

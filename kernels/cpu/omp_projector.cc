#include "kernels/cpu/omp_projector.h"

#include "kernels/cpu/omp_project.h"

namespace lexico::kernels::cpu {

int BlockVectorsMax(const Dictionary& dictionary) {
  const BytePanels* panels = dictionary.byte_panels();
  return panels != nullptr && panels->unit() == ByteUnit::kAmx ? kAmxVectorsMax : 24;
}

Projector::Projector(const Dictionary& dictionary, int block_vectors)
    : dictionary_(dictionary),
      components_(hwy::AllocateAligned<int16_t>(static_cast<size_t>(block_vectors + kByteRows) *
                                                dictionary.row_stride())),
      values_(hwy::AllocateAligned<int16_t>(block_vectors * GroupsOf(dictionary) * kGroupAtoms)),
      maxima_(hwy::AllocateAligned<int16_t>(block_vectors * GroupsOf(dictionary) * kGroupMaxima)) {}

void Projector::Project(std::span<Pursuit* const> pursuits, Precision precision, Scores* scores) {
  if (precision == Precision::kRough && dictionary_.byte_panels() != nullptr) {
    ProjectInBytes(pursuits, scores);
  } else {
    ProjectInShorts(pursuits, scores);
  }
}

void Projector::ProjectInBytes(std::span<Pursuit* const> pursuits, Scores* scores) {
  const BytePanels& panels = *dictionary_.byte_panels();
  const int n = static_cast<int>(pursuits.size());
  auto* components = reinterpret_cast<int8_t*>(components_.get());
  for (int i = 0; i < n; ++i) {
    vectors_[i] = QuantizeToBytes(panels, pursuits[i]->residual(),
                                  components + static_cast<size_t>(i) * panels.n_quads() * 4);
    scores[i] = {.values = values_.get() + static_cast<size_t>(i) * kGroupAtoms,
                 .maxima = maxima_.get() + static_cast<size_t>(i) * kGroupMaxima,
                 .interleaved = n,
                 .scale = vectors_[i].scale,
                 .error = vectors_[i].error};
  }
  ProjectBytes(panels.unit(), {.panels = panels,
                               .components = components,
                               .vectors = vectors_.data(),
                               .n_vectors = n,
                               .values = values_.get(),
                               .maxima = maxima_.get(),
                               .interleaved = n});
}

void Projector::ProjectInShorts(std::span<Pursuit* const> pursuits, Scores* scores) {
  const size_t packed = static_cast<size_t>(dictionary_.n_pairs()) * 2;
  for (size_t i = 0; i < pursuits.size(); ++i) {
    Quantize(dictionary_, pursuits[i]->residual(), pursuits[i]->residual_norm(),
             components_.get() + i * packed);
  }
  ProjectBlock(dictionary_, components_.get(), static_cast<int>(pursuits.size()), values_.get());
  for (size_t i = 0; i < pursuits.size(); ++i) {
    scores[i] = {.values = values_.get() + i * dictionary_.padded_atoms(),
                 .maxima = maxima_.get() + i * GroupsOf(dictionary_) * kGroupMaxima,
                 .scale = kScoreOne / pursuits[i]->residual_norm(),
                 .error = ProjectionErrorBound(dictionary_.head_dim())};
    FindMaxima(dictionary_, scores[i]);
  }
}

}  // namespace lexico::kernels::cpu

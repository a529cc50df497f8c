#include "tests/kernels/code_fixtures.h"

#include <cmath>
#include <cstring>

#include "kernels/api/elementwise.h"
#include "kernels/api/omp_encode.h"
#include "proto/base/check.h"

namespace lexico::tests {

using kernels::PageLayout;
using kernels::PreparedDictionary;
using kernels::Stream;
using kernels::TensorView;

std::vector<float> RandomNormal(size_t n, std::mt19937& random, float scale) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

std::vector<float> RandomAtoms(int n_atoms, int head_dim, std::mt19937& random) {
  std::vector<float> atoms = RandomNormal(static_cast<size_t>(n_atoms) * head_dim, random);
  for (int a = 0; a < n_atoms; ++a) {
    double squares = 0;
    float* row = atoms.data() + static_cast<size_t>(a) * head_dim;
    for (int i = 0; i < head_dim; ++i) squares += static_cast<double>(row[i]) * row[i];
    for (int i = 0; i < head_dim; ++i) row[i] = static_cast<float>(row[i] / std::sqrt(squares));
  }
  return atoms;
}

std::shared_ptr<const PreparedDictionary> Prepare(const std::vector<float>& atoms, int head_dim) {
  const int64_t n_atoms = static_cast<int64_t>(atoms.size()) / head_dim;
  auto prepared =
      kernels::PrepareDictionary(TensorView(atoms.data(), {n_atoms, head_dim}), Stream::Cpu(1));
  LEXICO_CHECK(prepared.ok());
  return *prepared;
}

std::shared_ptr<const PreparedDictionary> RandomDictionary(int n_atoms, int head_dim,
                                                           std::mt19937& random,
                                                           kernels::DType dtype) {
  const std::vector<float> atoms = RandomAtoms(n_atoms, head_dim, random);
  if (dtype == kernels::DType::kF32) return Prepare(atoms, head_dim);
  std::vector<uint16_t> narrow(atoms.size());
  kernels::Convert(TensorView(atoms.data(), {n_atoms, head_dim}),
                   kernels::MutableTensorView(narrow.data(), dtype, {n_atoms, head_dim}),
                   Stream::Cpu(1));
  auto prepared = kernels::PrepareDictionary(TensorView(narrow.data(), dtype, {n_atoms, head_dim}),
                                             Stream::Cpu(1));
  LEXICO_CHECK(prepared.ok());
  return *prepared;
}

CodedPages::CodedPages(const PageLayout& layout, int64_t n_pages, int n_atoms, std::mt19937& random)
    : layout_(layout) {
  std::uniform_int_distribution<int> atom(0, n_atoms - 1);
  std::normal_distribution<float> coefficient;
  for (int64_t p = 0; p < n_pages; ++p) {
    std::vector<uint8_t>& page = bytes_.emplace_back(layout.payload_bytes());
    for (const bool value : {false, true}) {
      const int sparsity = value ? layout.sparsity_v : layout.sparsity_k;
      for (int head = 0; head < layout.n_kv_heads; ++head) {
        uint8_t* atoms = page.data() + layout.head_offset(value, head);
        uint8_t* coefs = atoms + layout.atoms_bytes(sparsity);
        uint16_t previous = 0;
        for (int i = 0; i < layout.page_tokens * sparsity; ++i) {
          const uint32_t kind = random() % 16;
          uint16_t index = kind == 0 ? previous : static_cast<uint16_t>(atom(random));
          uint8_t coef = kernels::FloatToE4m3(coefficient(random));
          if (kind == 1) {
            index = 0;
            coef = 0;
          }
          std::memcpy(atoms + 2 * i, &index, 2);
          coefs[i] = coef;
          previous = index;
        }
      }
    }
  }
  for (const auto& page : bytes_) pointers_.push_back(page.data());
}

CodedPages::InBlocks::InBlocks(const CodedPages& pages, int64_t offset) {
  for (const std::vector<uint8_t>& page : pages.bytes_) {
    std::vector<uint8_t>& block = bytes_.emplace_back(offset, uint8_t{0x7f});
    block.insert(block.end(), page.begin(), page.end());
  }
  for (const auto& block : bytes_) pointers_.push_back(block.data());
}

void CodedPages::Poison(int64_t page) {
  for (const bool value : {false, true}) {
    const int sparsity = value ? layout_.sparsity_v : layout_.sparsity_k;
    for (int head = 0; head < layout_.n_kv_heads; ++head) {
      uint8_t* coefs =
          bytes_[page].data() + layout_.head_offset(value, head) + layout_.atoms_bytes(sparsity);
      std::memset(coefs, 0x7f, static_cast<size_t>(layout_.page_tokens) * sparsity);
    }
  }
}

}  // namespace lexico::tests

#include "tests/kernels/code_fixtures.h"

#include <cmath>

#include "kernels/api/elementwise.h"
#include "kernels/api/omp_encode.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/vector_code_definition.h"
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

namespace {

// Of normal size; now and then an atom repeats, or a place is unused.
kernels::definition::CodedVector RandomVector(const kernels::VectorCode& code, int n_atoms,
                                              std::mt19937& random) {
  std::uniform_int_distribution<int> atom(0, n_atoms - 1);
  std::normal_distribution<float> coefficient;
  kernels::definition::CodedVector vector;
  for (int j = 0; j < code.sparsity; ++j) {
    const uint32_t kind = random() % 16;
    const bool unused = kind == 1;
    const bool repeats = kind == 0 && j > 0;
    const auto index = static_cast<uint16_t>(unused ? 0 : atom(random));
    if (code.is_packed()) {
      vector.atoms[j] = repeats ? vector.atoms[j - 1]
                                : static_cast<uint16_t>(index << 4 | (unused ? 0 : random() % 16));
    } else {
      vector.atoms[j] = repeats ? vector.atoms[j - 1] : index;
      vector.coefs[j] = unused ? uint8_t{0} : kernels::FloatToE4m3(coefficient(random));
    }
  }
  if (code.is_packed()) vector.scale = kernels::cpu::FloatToF16(coefficient(random) / 4);
  if (code.has_residual()) vector.residual_scale = kernels::cpu::FloatToF16(coefficient(random));
  for (uint8_t& byte : vector.residual) byte = static_cast<uint8_t>(random());
  return vector;
}

}  // namespace

CodedPages::CodedPages(const PageLayout& layout, int64_t n_pages, int n_atoms, std::mt19937& random)
    : layout_(layout) {
  for (int64_t p = 0; p < n_pages; ++p) {
    std::vector<uint8_t>& page = bytes_.emplace_back(layout.payload_bytes());
    for (const bool value : {false, true}) {
      const kernels::VectorCode code = layout.code(value);
      for (int i = 0; i < layout.n_kv_heads * layout.page_tokens; ++i) {
        uint8_t* block = page.data() + layout.head_offset(value, i / layout.page_tokens);
        kernels::definition::StoreVector(code, layout.head_dim, RandomVector(code, n_atoms, random),
                                         block, layout.page_tokens, i % layout.page_tokens);
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
  kernels::definition::CodedVector nan;
  nan.coefs.fill(0x7f);
  nan.scale = nan.residual_scale = 0x7e00;
  nan.atoms.fill(1);  // a packed coefficient that is not 0
  for (const bool value : {false, true}) {
    for (int i = 0; i < layout_.n_kv_heads * layout_.page_tokens; ++i) {
      uint8_t* block = bytes_[page].data() + layout_.head_offset(value, i / layout_.page_tokens);
      kernels::definition::StoreVector(layout_.code(value), layout_.head_dim, nan, block,
                                       layout_.page_tokens, i % layout_.page_tokens);
    }
  }
}

}  // namespace lexico::tests

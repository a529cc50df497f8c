// Random dictionaries and coded pages for the tests of ops over codes. Everything comes from a
// seeded generator, so a failure is repeated by its seed.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/api/code_layout.h"
#include "kernels/api/dictionary.h"
#include "kernels/api/stream.h"

namespace lexico::tests {

// n independent normal numbers.
std::vector<float> RandomNormal(size_t n, std::mt19937& random, float scale = 1.0f);

// n_atoms unit rows in random directions, [n_atoms, head_dim].
std::vector<float> RandomAtoms(int n_atoms, int head_dim, std::mt19937& random);

std::shared_ptr<const kernels::PreparedDictionary> Prepare(const std::vector<float>& atoms,
                                                           int head_dim);
// The same as a file of type `dtype` gives it: F32, or F16, whose rows are of norm 1 only nearly.
std::shared_ptr<const kernels::PreparedDictionary> RandomDictionary(
    int n_atoms, int head_dim, std::mt19937& random, kernels::DType dtype = kernels::DType::kF32);

// Pages of random codes; atoms repeat within a token now and then, and some places are unused.
class CodedPages {
 public:
  CodedPages(const kernels::PageLayout& layout, int64_t n_pages, int n_atoms, std::mt19937& random);

  const uint8_t* const* pages() const { return pointers_.data(); }
  int64_t n_pages() const { return static_cast<int64_t>(pointers_.size()); }
  uint8_t* page(int64_t i) { return bytes_[i].data(); }

  // The same pages as one layer of blocks that begin `offset` bytes before them; there are NaN.
  class InBlocks {
   public:
    InBlocks(const CodedPages& pages, int64_t offset);
    const uint8_t* const* pages() const { return pointers_.data(); }

   private:
    std::vector<std::vector<uint8_t>> bytes_;
    std::vector<const uint8_t*> pointers_;
  };

  // Makes every coefficient or scale of a page NaN.
  void Poison(int64_t page);

 private:
  kernels::PageLayout layout_;
  std::vector<std::vector<uint8_t>> bytes_;
  std::vector<const uint8_t*> pointers_;
};

}  // namespace lexico::tests

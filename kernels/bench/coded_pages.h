// Pages of random codes on a device, coded as a worker's are.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/api/code_layout.h"
#include "kernels/api/device_buffer.h"
#include "kernels/api/dictionary.h"
#include "kernels/api/stream.h"

namespace lexico::kernels::bench {

// Of a profile that has codes, with pages of 32 tokens.
PageLayout LayoutOf(std::string_view profile, int n_kv_heads, int head_dim);

// Vectors with the outcome of a pursuit, on a device.
struct RandomPursuits {
  RandomPursuits(int64_t n_vectors, int sparsity, int n_atoms, int head_dim, int seed,
                 const Stream& stream);
  int64_t n_vectors;
  int sparsity;
  int head_dim;
  DeviceBuffer x;             // [n_vectors, head_dim] F32
  DeviceBuffer atoms;         // [n_vectors, sparsity] U16
  DeviceBuffer coefs;         // [n_vectors, sparsity] U8
  DeviceBuffer coefficients;  // [n_vectors, sparsity] F32
  DeviceBuffer errors;        // [n_vectors] F32
};

// One half of the first n_pages of `pages`, which lie in the stream's memory, from as many of the
// vectors: PackCodes of the paper's code, QuantizeCodes of any other.
struct StoreHalf {
  PageLayout layout;
  bool value = false;
  const PreparedDictionary* dictionary = nullptr;
  uint8_t* const* pages = nullptr;
  float* page_error = nullptr;      // [n_pages]
  int64_t* n_non_finite = nullptr;  // added to

  void Run(const RandomPursuits& from, int64_t n_pages, const Stream& stream) const;
};

// n_pages pages, each in memory of its own, of which at most kDistinctPages differ.
class PagePool {
 public:
  static constexpr int64_t kDistinctPages = 256;

  PagePool(const PageLayout& layout, int64_t n_pages, const PreparedDictionary* dictionary,
           int n_atoms, const Stream& stream);
  const uint8_t* const* pages() const { return table_.as<const uint8_t*>(); }

 private:
  DeviceBuffer memory_;
  DeviceBuffer table_;
};

}  // namespace lexico::kernels::bench

// Inputs of the benchmarks: the embedded model's dictionary where it is at hand, and vectors with
// the structure of a KV cache.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/api/code_layout.h"
#include "kernels/api/device_buffer.h"
#include "kernels/api/dictionary.h"
#include "kernels/api/stream.h"

namespace lexico::kernels::bench {

// Memory of the stream's device, which has to be there.
DeviceBuffer AllocateOnDevice(size_t bytes, const Stream& stream);
DeviceBuffer UploadToDevice(const void* data, size_t bytes, const Stream& stream);

struct BenchDictionary {
  std::vector<float> atoms;  // [n_atoms, head_dim]
  int head_dim = 128;
  std::string origin;  // "layers.3.k of models/lexico-20m/..." or "random atoms"
  std::shared_ptr<const PreparedDictionary> prepared;
};

// The first n_atoms atoms of layer 3's keys in models/lexico-20m, read relative to the working
// directory; random unit vectors of 128 where that file is absent. Trained atoms are correlated,
// which random ones are not: the search has more near-ties with them.
BenchDictionary LoadBenchDictionary(int n_atoms, const Stream& stream);

// Another copy, as a file's F16 gives it.
std::shared_ptr<const PreparedDictionary> PrepareAtoms(const BenchDictionary& dictionary,
                                                       const Stream& stream);

// Vectors that 24 atoms with falling coefficients explain up to noise: at sparsity 16 the relative
// error is near what real keys leave.
std::vector<float> SparseVectors(const BenchDictionary& dictionary, int64_t n_vectors);

// Pages of random codes, as one array per page.
std::vector<std::vector<uint8_t>> RandomPages(const PageLayout& layout, int64_t n_pages,
                                              int n_atoms);

}  // namespace lexico::kernels::bench

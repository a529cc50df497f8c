#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/api/omp_encode.h"
#include "kernels/bench/bench_data.h"
#include "kernels/bench/suites.h"

namespace lexico::kernels::bench {
namespace {

struct Codes {
  std::vector<uint16_t> atoms;
  std::vector<uint8_t> coefs;
  std::vector<float> rel_error;
};

void Measure(Bench& bench, const BenchDictionary& dictionary, const std::vector<float>& x,
             int64_t n_vectors, int sparsity) {
  const int n_atoms = dictionary.prepared->n_atoms();
  const int head_dim = dictionary.head_dim;
  Codes codes;
  codes.atoms.resize(n_vectors * sparsity);
  codes.coefs.resize(n_vectors * sparsity);
  codes.rel_error.resize(n_vectors);
  OmpEncodeArgs args;
  args.x = TensorView(x.data(), {n_vectors, head_dim});
  args.dictionary = dictionary.prepared.get();
  args.sparsity = sparsity;
  args.atoms = MutableTensorView(codes.atoms.data(), {n_vectors, sparsity});
  args.coefs = MutableTensorView(codes.coefs.data(), {n_vectors, sparsity});
  args.rel_error = MutableTensorView(codes.rel_error.data(), {n_vectors});

  Case work;
  work.shape = fmt::format("n_atoms {} head_dim {} sparsity {} vectors {}", n_atoms, head_dim,
                           sparsity, n_vectors);
  work.item_name = "vectors";
  work.items = static_cast<double>(n_vectors);
  // The FLOP of the definition's search: one projection on all atoms a step. The kernel does fewer
  // and narrower operations, so its share of the FP32 ceiling may exceed 100 %.
  work.flops = 2.0 * static_cast<double>(n_vectors) * n_atoms * head_dim * sparsity;
  Result& result = bench.Measure("omp_encode", work, [&] { OmpEncode(args, bench.stream()); });
  double sum = 0;
  for (const float error : codes.rel_error) sum += error;
  result.note = fmt::format("mean relative error {:.4f}", sum / static_cast<double>(n_vectors));
}

}  // namespace

void OmpEncodeSuite(Bench& bench) {
  for (const int n_atoms : {1024, 4096}) {
    const BenchDictionary dictionary = LoadBenchDictionary(n_atoms, bench.stream());
    const std::vector<float> x = SparseVectors(dictionary, 32768);
    for (const int sparsity : {8, 16}) {
      for (const int64_t n_vectors : {64, 512, 32768}) {
        Measure(bench, dictionary, x, n_vectors, sparsity);
      }
    }
  }
}

}  // namespace lexico::kernels::bench

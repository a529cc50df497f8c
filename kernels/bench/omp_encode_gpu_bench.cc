// OmpEncode on a GPU. The reference's batched inverse-Cholesky in PyTorch codes 0.387 M vectors/s
// at 4096 atoms and sparsity 16 on an H200 (F32, 20,000 vectors).
#include <fmt/format.h>

#include <vector>

#include "kernels/api/device_buffer.h"
#include "kernels/api/omp_encode.h"
#include "kernels/bench/bench_data.h"
#include "kernels/bench/suites.h"
#include "proto/base/check.h"

namespace lexico::kernels::bench {
namespace {

DeviceBuffer Allocate(size_t bytes, const Stream& stream) {
  auto buffer = DeviceBuffer::Allocate(bytes, stream);
  LEXICO_CHECK(buffer.ok());
  return *std::move(buffer);
}

void Measure(Bench& bench, const BenchDictionary& dictionary, const std::vector<float>& x,
             int64_t n_vectors, int sparsity) {
  const Stream& stream = bench.stream();
  const int n_atoms = dictionary.prepared->n_atoms();
  const int head_dim = dictionary.head_dim;
  DeviceBuffer vectors = Allocate(n_vectors * head_dim * sizeof(float), stream);
  vectors.CopyFrom(x.data(), vectors.bytes());
  const DeviceBuffer atoms = Allocate(n_vectors * sparsity * sizeof(uint16_t), stream);
  const DeviceBuffer coefs = Allocate(n_vectors * sparsity, stream);
  const DeviceBuffer rel_error = Allocate(n_vectors * sizeof(float), stream);
  OmpEncodeArgs args;
  args.x = TensorView(vectors.as<float>(), {n_vectors, head_dim});
  args.dictionary = dictionary.prepared.get();
  args.sparsity = sparsity;
  args.atoms = MutableTensorView(atoms.as<uint16_t>(), {n_vectors, sparsity});
  args.coefs = MutableTensorView(coefs.as<uint8_t>(), {n_vectors, sparsity});
  args.rel_error = MutableTensorView(rel_error.as<float>(), {n_vectors});

  Case work;
  work.shape = fmt::format("n_atoms {} head_dim {} sparsity {} vectors {}", n_atoms, head_dim,
                           sparsity, n_vectors);
  work.item_name = "vectors";
  work.items = static_cast<double>(n_vectors);
  // One projection on all atoms a step: F16 products here, so the share of FP32 may exceed 100 %.
  work.flops = 2.0 * static_cast<double>(n_vectors) * n_atoms * head_dim * sparsity;
  Result& result = bench.Measure("omp_encode", work, [&] { OmpEncode(args, stream); });
  std::vector<float> errors(n_vectors);
  rel_error.CopyTo(errors.data(), rel_error.bytes());
  double sum = 0;
  for (const float error : errors) sum += error;
  result.note = fmt::format("mean relative error {:.4f}", sum / static_cast<double>(n_vectors));
}

}  // namespace

void OmpEncodeGpuSuite(Bench& bench) {
  for (const int n_atoms : {4096, 1024}) {
    const BenchDictionary dictionary = LoadBenchDictionary(n_atoms, bench.stream());
    const std::vector<float> x = SparseVectors(dictionary, 131072);
    for (const int sparsity : {8, 16, 24}) {
      for (const int64_t n_vectors : {512, 20000, 131072}) {
        Measure(bench, dictionary, x, n_vectors, sparsity);
      }
    }
  }
}

}  // namespace lexico::kernels::bench

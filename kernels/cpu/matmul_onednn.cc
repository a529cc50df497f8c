#include "kernels/cpu/matmul_onednn.h"

#include <fmt/format.h>
#include <omp.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cpu/convert.h"
#include "oneapi/dnnl/dnnl.hpp"
#include "proto/base/check.h"

namespace lexico::kernels::cpu {
namespace {

using dnnl::memory;

// The form of W is chosen for products of this many rows: a typical prefill chunk.
constexpr int64_t kRowsOfChoice = 256;

memory::desc RowMajor(int64_t rows, int64_t columns, memory::data_type type) {
  return memory::desc({rows, columns}, type, memory::format_tag::ab);
}

dnnl::matmul::primitive_desc Describe(const dnnl::engine& engine, int64_t n_rows, int64_t n_in,
                                      int64_t n_out, const memory::desc& weights, bool accumulate) {
  dnnl::primitive_attr attr;
  if (accumulate) {
    dnnl::post_ops ops;
    ops.append_sum(1.0f);
    attr.set_post_ops(ops);
  }
  return dnnl::matmul::primitive_desc(
      dnnl::matmul::desc(RowMajor(n_rows, n_in, memory::data_type::bf16), weights,
                         RowMajor(n_rows, n_out, memory::data_type::f32)),
      attr, engine);
}

}  // namespace

Bf16UnitKind Bf16Unit() {
  switch (dnnl::get_effective_cpu_isa()) {
    case dnnl::cpu_isa::avx512_core_amx:
      return Bf16UnitKind::kAmx;
    case dnnl::cpu_isa::avx512_core_bf16:
      return Bf16UnitKind::kAvx512Bf16;
    default:
      return Bf16UnitKind::kNone;
  }
}

const char* Bf16UnitName(Bf16UnitKind unit) {
  switch (unit) {
    case Bf16UnitKind::kNone:
      return "none";
    case Bf16UnitKind::kAvx512Bf16:
      return "AVX512_BF16";
    case Bf16UnitKind::kAmx:
      return "AMX";
  }
  LEXICO_UNREACHABLE();
}

OneDnnThreads::OneDnnThreads(int threads) : before_(omp_get_max_threads()) {
  omp_set_num_threads(threads);
}
OneDnnThreads::~OneDnnThreads() { omp_set_num_threads(before_); }

struct OneDnnMatrix::Packed {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  memory weights;
  int64_t n_in = 0;
  int64_t n_out = 0;
};

OneDnnMatrix::OneDnnMatrix(std::unique_ptr<Packed> packed) : packed_(std::move(packed)) {}
OneDnnMatrix::~OneDnnMatrix() = default;

size_t OneDnnMatrix::bytes() const { return packed_->weights.get_desc().get_size(); }

absl::StatusOr<std::unique_ptr<OneDnnMatrix>> OneDnnMatrix::Make(
    std::span<const TensorView> weights, int64_t n_out, int64_t n_in) {
  try {
    auto packed = std::make_unique<Packed>();
    packed->n_in = n_in;
    packed->n_out = n_out;
    std::vector<uint16_t> stacked;
    stacked.reserve(n_out * n_in);
    for (const TensorView& w : weights)
      stacked.insert(stacked.end(), w.as<uint16_t>(), w.as<uint16_t>() + w.size());
    const memory::desc any({n_in, n_out}, memory::data_type::bf16, memory::format_tag::any);
    const auto chosen = Describe(packed->engine, kRowsOfChoice, n_in, n_out, any, false);
    packed->weights = memory(chosen.weights_desc(), packed->engine);
    // [n_out, n_in] row-major is [n_in, n_out] column-major.
    memory plain(memory::desc({n_in, n_out}, memory::data_type::bf16, memory::format_tag::ba),
                 packed->engine, stacked.data());
    dnnl::stream stream(packed->engine);
    dnnl::reorder(plain, packed->weights).execute(stream, plain, packed->weights);
    stream.wait();
    return std::unique_ptr<OneDnnMatrix>(new OneDnnMatrix(std::move(packed)));
  } catch (const dnnl::error& e) {
    return absl::InternalError(
        fmt::format("oneDNN cannot prepare a BF16 matrix [{}, {}]: {}", n_out, n_in, e.what()));
  }
}

void OneDnnMatrix::MatMul(const float* x, int64_t n_rows, float* y, bool accumulate,
                          int threads) const {
  const Packed& p = *packed_;
  std::vector<uint16_t> rounded(n_rows * p.n_in);
  Convert(TensorView(x, {n_rows, p.n_in}),
          MutableTensorView(rounded.data(), DType::kBF16, {n_rows, p.n_in}), threads);
  const OneDnnThreads guard(threads);
  try {
    // Descriptions and code are cached by oneDNN, keyed by shape.
    const auto described =
        Describe(p.engine, n_rows, p.n_in, p.n_out, p.weights.get_desc(), accumulate);
    memory from(described.src_desc(), p.engine, rounded.data());
    memory to(described.dst_desc(), p.engine, y);
    dnnl::stream stream(p.engine);
    dnnl::matmul(described).execute(
        stream, {{DNNL_ARG_SRC, from}, {DNNL_ARG_WEIGHTS, p.weights}, {DNNL_ARG_DST, to}});
    stream.wait();
  } catch (const dnnl::error& e) {
    base::CheckFailed(__FILE__, __LINE__,
                      fmt::format("oneDNN refused a BF16 product [{}, {}] x [{}, {}]: {}", n_rows,
                                  p.n_in, p.n_in, p.n_out, e.what()));
  }
}

}  // namespace lexico::kernels::cpu

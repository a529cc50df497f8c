// The definition, a page a thread.
#include "kernels/cpu/quantize_codes.h"

#include <cmath>
#include <limits>

#include "kernels/cpu/dictionary.h"
#include "kernels/cpu/vector_code_definition.h"

namespace lexico::kernels::cpu {
namespace {

double Square(double x) { return x * x; }

double RelativeError(const float* x, const std::vector<double>& approximation) {
  double squares = 0;
  double errors = 0;
  for (size_t i = 0; i < approximation.size(); ++i) {
    squares += Square(x[i]);
    errors += Square(x[i] - approximation[i]);
  }
  return squares == 0 ? 0 : std::sqrt(errors / squares);
}

// Stores vector `at` of the call, token t of `block`; its relative error.
double QuantizeVector(const QuantizeCodesArgs& args, int64_t at, uint8_t* block, int t) {
  const VectorCode code = args.layout.code(args.value);
  const int dim = args.layout.head_dim;
  const float* x = args.x.as<float>() + at * dim;
  const Dictionary* dictionary = code.sparsity > 0 ? &AsCpu(*args.dictionary) : nullptr;
  double squares = 0;
  for (int i = 0; i < dim; ++i) squares += Square(x[i]);
  if (!std::isfinite(squares)) {
    definition::StoreVector(code, dim, {}, block, args.layout.page_tokens, t);
    return std::numeric_limits<double>::quiet_NaN();
  }
  const uint16_t* atoms = nullptr;
  const float* coefficients = nullptr;
  if (code.sparsity > 0) {
    atoms = args.atoms.as<uint16_t>() + at * code.sparsity;
    coefficients = args.coefficients.as<float>() + at * code.sparsity;
  }
  const definition::CodedVector vector =
      definition::EncodeVector(code, dim, dictionary, x, atoms, coefficients);
  definition::StoreVector(code, dim, vector, block, args.layout.page_tokens, t);
  return RelativeError(x, definition::DecodeVector(code, dim, dictionary, vector).x);
}

}  // namespace

void QuantizeCodes(const QuantizeCodesArgs& args, const Stream& stream) {
  const PageLayout& layout = args.layout;
  const int64_t page_vectors = static_cast<int64_t>(layout.page_tokens) * layout.n_kv_heads;
  const int64_t n_pages = args.x.dim(0) / page_vectors;
  int64_t n_non_finite = 0;
#pragma omp parallel for num_threads(stream.threads()) schedule(dynamic) reduction(+ : n_non_finite)
  for (int64_t page = 0; page < n_pages; ++page) {
    double sum = 0;
    for (int64_t i = 0; i < page_vectors; ++i) {
      const auto head = static_cast<int>(i % layout.n_kv_heads);
      uint8_t* block = args.pages[page] + args.page_offset + layout.head_offset(args.value, head);
      const double error = QuantizeVector(args, page * page_vectors + i, block,
                                          static_cast<int>(i / layout.n_kv_heads));
      if (std::isnan(error)) ++n_non_finite;
      sum += error;
    }
    args.page_error[page] = static_cast<float>(sum / static_cast<double>(page_vectors));
  }
  *args.n_non_finite += n_non_finite;
}

}  // namespace lexico::kernels::cpu

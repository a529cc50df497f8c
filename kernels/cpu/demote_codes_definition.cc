#include "kernels/cpu/demote_codes_definition.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/api/omp_encode.h"
#include "kernels/cpu/dictionary.h"
#include "kernels/cpu/omp_encode_definition.h"
#include "kernels/cpu/vector_code_definition.h"

namespace lexico::kernels::definition {
namespace {

double Norm(const std::vector<double>& x) {
  double squares = 0;
  for (const double value : x) squares += value * value;
  return std::sqrt(squares);
}

void DemoteOne(const DemoteCodesArgs& args, int64_t i) {
  const PageLayout& layout = args.layout;
  const cpu::Dictionary& dictionary = cpu::AsCpu(*args.dictionary);
  const VectorCode code = layout.code(args.value);
  const auto head = static_cast<int>(i % layout.n_kv_heads);
  const auto token = static_cast<int>(i / layout.n_kv_heads % layout.page_tokens);
  const int64_t page = i / layout.n_kv_heads / layout.page_tokens;
  const uint8_t* block = args.pages[page] + args.page_offset + layout.head_offset(args.value, head);
  const CodedVector vector = LoadVector(code, layout.head_dim, block, layout.page_tokens, token);
  std::vector<double> rest = DecodeVector(code, layout.head_dim, &dictionary, vector).x;

  uint16_t* atoms = args.atoms.as_mutable<uint16_t>() + i * args.sparsity;
  uint8_t* coefs = args.coefs.as_mutable<uint8_t>() + i * args.sparsity;
  float* coefficients = args.coefficients.data == nullptr
                            ? nullptr
                            : args.coefficients.as_mutable<float>() + i * args.sparsity;
  float& rel_error = args.rel_error.as_mutable<float>()[i];
  std::fill_n(atoms, args.sparsity, uint16_t{0});
  std::fill_n(coefs, args.sparsity, uint8_t{0});
  if (coefficients != nullptr) std::fill_n(coefficients, args.sparsity, 0.0f);
  const double norm = Norm(rest);
  rel_error = std::isfinite(norm) ? 0 : std::numeric_limits<float>::quiet_NaN();
  if (!std::isfinite(norm) || norm == 0) return;

  std::vector<bool> excluded(dictionary.n_atoms(), true);
  for (int j = 0; j < code.sparsity; ++j) {
    if (CoefficientOf(code, vector, j) != 0) excluded[AtomOf(code, vector, j)] = false;
  }
  const OmpPursuit pursuit = PursueAmong(rest, dictionary, std::move(excluded), args.sparsity, 0);
  for (size_t j = 0; j < pursuit.picks.size(); ++j) {
    const auto coefficient = static_cast<float>(pursuit.coefficients[j]);
    atoms[j] = static_cast<uint16_t>(pursuit.picks[j].atom);
    coefs[j] = FloatToE4m3(coefficient);
    if (coefficients != nullptr) coefficients[j] = coefficient;
    const float* row = dictionary.row(atoms[j]);
    for (int c = 0; c < layout.head_dim; ++c) rest[c] -= E4m3ToFloat(coefs[j]) * double{row[c]};
  }
  rel_error = static_cast<float>(Norm(rest) / norm);
}

}  // namespace

void DemoteCodes(const DemoteCodesArgs& args) {
  for (int64_t i = 0; i < args.rel_error.dim(0); ++i) DemoteOne(args, i);
}

}  // namespace lexico::kernels::definition

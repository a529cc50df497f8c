#include "kernels/cpu/vector_code_definition.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/api/omp_encode.h"
#include "kernels/api/residual.h"
#include "kernels/cpu/convert.h"

namespace lexico::kernels::definition {
namespace {

using Vector = std::vector<double>;

constexpr double kHalfMax = 65504;  // the largest finite FP16
constexpr int kNumberMin = -8;      // of 4 bits
constexpr int kNumberMax = 7;
// A projection shrinks, by 1 / (1 - e^2) at most a half: a worse code is not worth enlarging.
constexpr double kUnshrinkMax = 1.5;

double Dot(const Vector& a, const Vector& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

uint16_t ToHalf(double value) {
  return cpu::FloatToF16(static_cast<float>(std::clamp(value, -kHalfMax, kHalfMax)));
}

void Hadamard(Vector& x) {
  for (size_t half = 1; half < x.size(); half *= 2) {
    for (size_t begin = 0; begin < x.size(); begin += 2 * half) {
      for (size_t i = begin; i < begin + half; ++i) {
        const double a = x[i];
        const double b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
  }
  const double scale = 1 / std::sqrt(static_cast<double>(x.size()));
  for (double& value : x) value *= scale;
}

// sum_j c_j d_j, and of the terms' absolute values where `magnitude` is not null.
Vector AtomPart(const VectorCode& code, const cpu::Dictionary* dictionary,
                const CodedVector& vector, int head_dim, Vector* magnitude) {
  Vector sum(head_dim);
  for (int j = 0; j < code.sparsity; ++j) {
    const double c = CoefficientOf(code, vector, j);
    if (c == 0) continue;
    const float* row = dictionary->row(AtomOf(code, vector, j));
    for (int i = 0; i < head_dim; ++i) {
      sum[i] += c * row[i];
      if (magnitude != nullptr) (*magnitude)[i] += std::abs(c * row[i]);
    }
  }
  return sum;
}

// The scale that gives the coefficient of largest magnitude the number -8: the one end of the range
// that has no other on the far side, so all 16 numbers are of use and 0 is one of them.
void PackCoefficients(const VectorCode& code, const uint16_t* atoms, const float* coefficients,
                      CodedVector* vector) {
  float largest = 0;
  for (int j = 0; j < code.sparsity; ++j) {
    if (std::abs(coefficients[j]) > std::abs(largest)) largest = coefficients[j];
  }
  vector->scale = ToHalf(static_cast<double>(largest) / kNumberMin);
  const double scale = cpu::F16ToFloat(vector->scale);
  for (int j = 0; j < code.sparsity; ++j) {
    const double number = scale == 0 ? 0 : std::nearbyint(coefficients[j] / scale);
    const int clamped = static_cast<int>(
        std::clamp(number, static_cast<double>(kNumberMin), static_cast<double>(kNumberMax)));
    // A place that adds nothing is the same whatever atom it had.
    vector->atoms[j] =
        clamped == 0 ? uint16_t{0} : static_cast<uint16_t>(atoms[j] << 4 | (clamped & 15));
  }
}

void RoundCoefficients(const VectorCode& code, const uint16_t* atoms, const float* coefficients,
                       double factor, CodedVector* vector) {
  for (int j = 0; j < code.sparsity; ++j) {
    vector->atoms[j] = atoms[j];
    vector->coefs[j] = FloatToE4m3(static_cast<float>(coefficients[j] * factor));
  }
}

// <x, x> / <x, x^>.
double Unshrink(const Vector& x, const Vector& approximation) {
  const double product = Dot(x, approximation);
  return product > 0 ? std::clamp(Dot(x, x) / product, 1.0, kUnshrinkMax) : 1.0;
}

Vector ExactAtomPart(int sparsity, const cpu::Dictionary& dictionary, const uint16_t* atoms,
                     const float* coefficients, int head_dim) {
  Vector sum(head_dim);
  for (int j = 0; j < sparsity; ++j) {
    const float* row = dictionary.row(atoms[j]);
    for (int i = 0; i < head_dim; ++i) sum[i] += static_cast<double>(coefficients[j]) * row[i];
  }
  return sum;
}

void EncodeAtoms(const VectorCode& code, const cpu::Dictionary& dictionary, const Vector& x,
                 const uint16_t* atoms, const float* coefficients, CodedVector* vector) {
  const auto head_dim = static_cast<int>(x.size());
  const bool unshrink = code.form.unbiased && !code.has_residual();
  if (!code.is_packed()) {
    const double factor =
        unshrink
            ? Unshrink(x, ExactAtomPart(code.sparsity, dictionary, atoms, coefficients, head_dim))
            : 1.0;
    return RoundCoefficients(code, atoms, coefficients, factor, vector);
  }
  PackCoefficients(code, atoms, coefficients, vector);
  if (!unshrink) return;
  const Vector coded = AtomPart(code, &dictionary, *vector, head_dim, nullptr);
  vector->scale = ToHalf(cpu::F16ToFloat(vector->scale) * Unshrink(x, coded));
}

// Rank of the level's magnitude: how many of the midpoints lie below.
int RankOf(const ResidualLevels& levels, double magnitude) {
  int rank = 0;
  while (rank + 1 < levels.n_magnitudes &&
         magnitude > (levels.magnitudes[rank] + levels.magnitudes[rank + 1]) / 2) {
    ++rank;
  }
  return rank;
}

void SetLevel(int bits, int head_dim, int i, bool positive, int rank, CodedVector* vector) {
  const int plane_bytes = head_dim / 8;
  const auto set = [&](int plane, bool bit) {
    if (bit) vector->residual[plane * plane_bytes + i / 8] |= static_cast<uint8_t>(1 << (i % 8));
  };
  set(0, positive);
  for (int plane = 1; plane < bits; ++plane) {
    const bool high = (rank >> (bits - 1 - plane) & 1) != 0;
    set(plane, high == positive);
  }
}

// The level of number i, as the sum of its terms.
double LevelOf(int bits, int head_dim, int i, const CodedVector& vector) {
  const ResidualLevels levels = LevelsOf(bits);
  double level = 0;
  bool product = false;
  for (int p = 0; p < levels.n_terms; ++p) {
    bool bit = product;
    if (p < bits) {
      bit = (vector.residual[p * (head_dim / 8) + i / 8] >> (i % 8) & 1) != 0;
      product = product != bit;
    }
    level += bit ? levels.factors[p] : -levels.factors[p];
  }
  return level;
}

void EncodeResidual(const VectorCode& code, Vector rest, CodedVector* vector) {
  const auto head_dim = static_cast<int>(rest.size());
  Rotate(rest);
  const double squares = Dot(rest, rest);
  if (squares == 0) return;
  const ResidualLevels levels = LevelsOf(code.form.residual_bits);
  const double norm = std::sqrt(squares / head_dim);
  double product = 0;
  double level_squares = 0;
  for (int i = 0; i < head_dim; ++i) {
    const int rank = RankOf(levels, std::abs(rest[i]) / norm);
    SetLevel(code.form.residual_bits, head_dim, i, rest[i] > 0, rank, vector);
    product += std::abs(rest[i]) * levels.magnitudes[rank];
    level_squares += levels.magnitudes[rank] * levels.magnitudes[rank];
  }
  vector->residual_scale = ToHalf(code.form.unbiased ? squares / product : product / level_squares);
}

}  // namespace

int AtomOf(const VectorCode& code, const CodedVector& vector, int j) {
  return code.is_packed() ? vector.atoms[j] >> 4 : vector.atoms[j];
}

double CoefficientOf(const VectorCode& code, const CodedVector& vector, int j) {
  if (!code.is_packed()) return E4m3ToFloat(vector.coefs[j]);
  const int number = static_cast<int16_t>(vector.atoms[j] << 12) >> 12;
  return static_cast<double>(cpu::F16ToFloat(vector.scale)) * number;
}

void Rotate(std::vector<double>& r) {
  for (size_t i = 0; i < r.size(); ++i) r[i] *= ResidualSign(static_cast<int>(i));
  Hadamard(r);
}

void RotateBack(std::vector<double>& z) {
  Hadamard(z);
  for (size_t i = 0; i < z.size(); ++i) z[i] *= ResidualSign(static_cast<int>(i));
}

void StoreVector(const VectorCode& code, int head_dim, const CodedVector& vector, uint8_t* block,
                 int n, int t) {
  const size_t s = code.sparsity;
  std::memcpy(block + 2 * s * t, vector.atoms.data(), 2 * s);
  if (code.is_packed()) std::memcpy(block + code.scales_at(n) + 2 * t, &vector.scale, 2);
  if (!code.is_packed()) std::memcpy(block + code.coefs_at(n) + s * t, vector.coefs.data(), s);
  if (!code.has_residual()) return;
  std::memcpy(block + code.residual_scales_at(n) + 2 * t, &vector.residual_scale, 2);
  const size_t bytes = code.residual_bytes(head_dim);
  std::memcpy(block + code.residual_at(n) + bytes * t, vector.residual.data(), bytes);
}

CodedVector LoadVector(const VectorCode& code, int head_dim, const uint8_t* block, int n, int t) {
  CodedVector vector;
  const size_t s = code.sparsity;
  std::memcpy(vector.atoms.data(), block + 2 * s * t, 2 * s);
  if (code.is_packed()) std::memcpy(&vector.scale, block + code.scales_at(n) + 2 * t, 2);
  if (!code.is_packed()) std::memcpy(vector.coefs.data(), block + code.coefs_at(n) + s * t, s);
  if (!code.has_residual()) return vector;
  std::memcpy(&vector.residual_scale, block + code.residual_scales_at(n) + 2 * t, 2);
  const size_t bytes = code.residual_bytes(head_dim);
  std::memcpy(vector.residual.data(), block + code.residual_at(n) + bytes * t, bytes);
  return vector;
}

CodedVector EncodeVector(const VectorCode& code, int head_dim, const cpu::Dictionary* dictionary,
                         const float* x, const uint16_t* atoms, const float* coefficients) {
  CodedVector vector;
  Vector rest(x, x + head_dim);
  if (code.sparsity > 0) {
    EncodeAtoms(code, *dictionary, rest, atoms, coefficients, &vector);
    const Vector coded = AtomPart(code, dictionary, vector, head_dim, nullptr);
    for (int i = 0; i < head_dim; ++i) rest[i] -= coded[i];
  }
  if (code.has_residual()) EncodeResidual(code, std::move(rest), &vector);
  return vector;
}

DecodedVector DecodeVector(const VectorCode& code, int head_dim, const cpu::Dictionary* dictionary,
                           const CodedVector& vector) {
  DecodedVector decoded{.x = {}, .magnitude = Vector(head_dim)};
  decoded.x = AtomPart(code, dictionary, vector, head_dim, &decoded.magnitude);
  if (!code.has_residual()) return decoded;
  Vector rest(head_dim);
  double absolute = 0;
  const double scale = cpu::F16ToFloat(vector.residual_scale);
  for (int i = 0; i < head_dim; ++i) {
    rest[i] = scale * LevelOf(code.form.residual_bits, head_dim, i, vector);
    absolute += std::abs(rest[i]);
  }
  RotateBack(rest);
  for (int i = 0; i < head_dim; ++i) {
    decoded.x[i] += rest[i];
    decoded.magnitude[i] += absolute / std::sqrt(static_cast<double>(head_dim));
  }
  return decoded;
}

DecodedVector DecodeVector(const PageLayout& layout, bool value, int kv_head, int token,
                           const uint8_t* page, const cpu::Dictionary* dictionary) {
  const VectorCode code = layout.code(value);
  const uint8_t* block = page + layout.head_offset(value, kv_head);
  return DecodeVector(code, layout.head_dim, dictionary,
                      LoadVector(code, layout.head_dim, block, layout.page_tokens, token));
}

}  // namespace lexico::kernels::definition

// The definition's arithmetic (vector_code_definition.cc), in double, a page a thread: on the
// stack, each sum once, and the error taken in the rotated space, where it is as large. Loops are
// plain ones, which the compiler makes vectors of for every instruction set. Bytes differ from the
// definition's only where the order of a sum over a vector's numbers decides a rounding.
//
// Measured on one thread of a shared machine, a Xeon with AVX-512 (lexico-bench-kernels --op
// coding, 28 Nov 2026), CPU us a vector of 128, in brackets the definition, which was what ran
// before: kv4r1 1.1 (8.1), kv2r2u 0.8 (7.0), kv16 0.6 (7.3), kv16u 0.8 (9.2), kv0r3u 0.7 (8.6). A
// pursuit of 4 atoms takes 8 to 10, of 16 atoms 43 to 60.
#include "kernels/cpu/quantize_codes.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "kernels/api/omp_encode.h"
#include "kernels/api/residual.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/dictionary.h"
#include "kernels/cpu/vector_code_definition.h"
#include "proto/base/limits.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/quantize_codes.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu::HWY_NAMESPACE {

using definition::CodedVector;

double Dot(const double* a, const double* b, int n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

uint16_t ScaleBits(double value) {
  constexpr double kHalfMax = 65504;
  return FloatToF16(static_cast<float>(std::clamp(value, -kHalfMax, kHalfMax)));
}

// One vector on its way to its code.
class Quantizer {
 public:
  Quantizer(const VectorCode& code, int head_dim, const Dictionary* dictionary)
      : code_(code), dim_(head_dim), dictionary_(dictionary), residual_(code.form.residual_bits) {}

  // Its relative error; NaN, and a code of zero, where x is not finite.
  double Quantize(const float* x, const uint16_t* atoms, const float* coefficients,
                  CodedVector& vector) {
    vector = {};
    for (int i = 0; i < dim_; ++i) x_[i] = x[i];
    const double squares = Dot(x_, x_, dim_);
    if (!std::isfinite(squares)) return std::numeric_limits<double>::quiet_NaN();
    std::memcpy(rest_, x_, dim_ * sizeof(double));
    if (code_.sparsity > 0) QuantizeAtoms(atoms, coefficients, squares, vector);
    if (code_.has_residual()) QuantizeResidual(vector);
    return squares == 0 ? 0 : std::sqrt(Dot(rest_, rest_, dim_) / squares);
  }

 private:
  // What rounding to the levels of a number of bits needs.
  struct Residual {
    explicit Residual(int n_bits) : bits(n_bits) {
      if (bits == 0) return;
      const ResidualLevels levels = LevelsOf(bits);
      for (int i = 0; i < levels.n_magnitudes; ++i) magnitudes[i] = levels.magnitudes[i];
      for (int i = 0; i + 1 < levels.n_magnitudes; ++i) {
        middles[i] = (magnitudes[i] + magnitudes[i + 1]) / 2;
      }
    }
    int bits;
    double magnitudes[kLevelTermsMax] = {};
    double middles[kLevelTermsMax - 1] = {HUGE_VAL, HUGE_VAL, HUGE_VAL};
  };

  // sum_ = sum_j factor * c_j d_j
  template <typename Coefficient>
  void SumAtoms(const uint16_t* atoms, int shift, const Coefficient* c, double factor) {
    std::fill_n(sum_, dim_, 0.0);
    for (int j = 0; j < code_.sparsity; ++j) {
      if (c[j] == 0) continue;
      const double weight = factor * c[j];
      const float* row = dictionary_->row(atoms[j] >> shift);
#pragma omp simd
      for (int i = 0; i < dim_; ++i) sum_[i] += weight * row[i];
    }
  }
  // <x, x> / <x, sum_>, at least 1 and at most 1.5 (kernels/api/quantize_codes.h).
  double Unshrink(double squares) const {
    const double product = Dot(x_, sum_, dim_);
    return product > 0 ? std::clamp(squares / product, 1.0, 1.5) : 1.0;
  }

  void QuantizeAtoms(const uint16_t* atoms, const float* coefficients, double squares,
                     CodedVector& vector) {
    const bool unshrink = code_.form.unbiased && !code_.has_residual();
    if (code_.is_packed()) {
      const double scale = PackCoefficients(atoms, coefficients, vector);
      SumAtoms(vector.atoms.data(), 4, numbers_, scale);
      if (unshrink && scale != 0) {
        vector.scale = ScaleBits(scale * Unshrink(squares));
        SumAtoms(vector.atoms.data(), 4, numbers_, F16ToFloat(vector.scale));
      }
    } else {
      double factor = 1;
      if (unshrink) {
        SumAtoms(atoms, 0, coefficients, 1);
        factor = Unshrink(squares);
      }
      for (int j = 0; j < code_.sparsity; ++j) {
        vector.atoms[j] = atoms[j];
        vector.coefs[j] = FloatToE4m3(static_cast<float>(coefficients[j] * factor));
        numbers_[j] = E4m3ToFloat(vector.coefs[j]);
      }
      SumAtoms(atoms, 0, numbers_, 1);
    }
#pragma omp simd
    for (int i = 0; i < dim_; ++i) rest_[i] -= sum_[i];
  }

  // 4 bits each, in numbers_ as well, and the scale, which it returns.
  double PackCoefficients(const uint16_t* atoms, const float* coefficients, CodedVector& vector) {
    float largest = 0;
    for (int j = 0; j < code_.sparsity; ++j) {
      if (std::abs(coefficients[j]) > std::abs(largest)) largest = coefficients[j];
    }
    vector.scale = ScaleBits(static_cast<double>(largest) / -8);
    const double scale = F16ToFloat(vector.scale);
    for (int j = 0; j < code_.sparsity; ++j) {
      const double number = scale == 0 ? 0 : std::nearbyint(coefficients[j] / scale);
      numbers_[j] = std::clamp(number, -8.0, 7.0);
      const int n = static_cast<int>(numbers_[j]);
      // A place that adds nothing is the same whatever atom it had.
      vector.atoms[j] = n == 0 ? uint16_t{0} : static_cast<uint16_t>(atoms[j] << 4 | (n & 15));
    }
    return scale;
  }

  // rest_ = R rest_
  void Rotate() {
    for (int half = 1; half < dim_; half *= 2) {
      for (int begin = 0; begin < dim_; begin += 2 * half) {
        double* low = rest_ + begin;
        double* high = low + half;
#pragma omp simd
        for (int i = 0; i < half; ++i) {
          const double a = low[i];
          const double b = high[i];
          low[i] = a + b;
          high[i] = a - b;
        }
      }
    }
    const double scale = 1 / std::sqrt(static_cast<double>(dim_));
#pragma omp simd
    for (int i = 0; i < dim_; ++i) rest_[i] *= scale;
  }

  // Leaves what rounding left, rotated.
  void QuantizeResidual(CodedVector& vector) {
    for (int i = 0; i < dim_; ++i) rest_[i] *= kSigns[i];
    Rotate();
    const double squares = Dot(rest_, rest_, dim_);
    if (squares == 0) return;
    const double norm = std::sqrt(squares / dim_);
    // By value: what a loop loads where a condition holds makes no vectors.
    const double m0 = residual_.magnitudes[0];
    const double m1 = residual_.magnitudes[1];
    const double m2 = residual_.magnitudes[2];
    const double m3 = residual_.magnitudes[3];
    const double middle0 = residual_.middles[0];
    const double middle1 = residual_.middles[1];
    const double middle2 = residual_.middles[2];
    double product = 0;
    double level_squares = 0;
#pragma omp simd reduction(+ : product, level_squares)
    for (int i = 0; i < dim_; ++i) {
      const double size = std::abs(rest_[i]);
      const double place = size / norm;
      double magnitude = place > middle0 ? m1 : m0;
      magnitude = place > middle1 ? m2 : magnitude;
      magnitude = place > middle2 ? m3 : magnitude;
      product += size * magnitude;
      level_squares += magnitude * magnitude;
      sum_[i] = rest_[i] > 0 ? magnitude : -magnitude;
    }
    SetPlanes(vector);
    vector.residual_scale =
        ScaleBits(code_.form.unbiased ? squares / product : product / level_squares);
    const double scale = F16ToFloat(vector.residual_scale);
#pragma omp simd
    for (int i = 0; i < dim_; ++i) rest_[i] -= scale * sum_[i];
  }

  // The planes of the levels sum_ (kernels/api/residual.h).
  void SetPlanes(CodedVector& vector) {
    const double high = residual_.magnitudes[residual_.bits - 1];  // of 3 bits the third one
#pragma omp simd
    for (int i = 0; i < dim_; ++i) bits_[i] = sum_[i] > 0 ? 1 : 0;
    PackBits(vector.residual.data());
    if (residual_.bits == 1) return;
#pragma omp simd
    for (int i = 0; i < dim_; ++i) {
      bits_[i] = (std::abs(sum_[i]) >= high) == (sum_[i] > 0) ? 1 : 0;
    }
    PackBits(vector.residual.data() + dim_ / 8);
    if (residual_.bits == 2) return;
    const double second = residual_.magnitudes[1];
    const double last = residual_.magnitudes[3];
#pragma omp simd
    for (int i = 0; i < dim_; ++i) {
      const double size = std::abs(sum_[i]);
      const double least = size < high ? second : last;
      bits_[i] = (size >= least) == (sum_[i] > 0) ? 1 : 0;
    }
    PackBits(vector.residual.data() + dim_ / 4);
  }

  // Eight bytes of 0 or 1 to the bits of one.
  void PackBits(uint8_t* to) const {
    for (int i = 0; i < dim_ / 8; ++i) {
      uint64_t bytes;
      std::memcpy(&bytes, bits_ + 8 * i, sizeof(bytes));
      to[i] = static_cast<uint8_t>(bytes * 0x0102040810204080 >> 56);
    }
  }

  static constexpr auto kSigns = [] {
    std::array<double, base::kHeadDimMax> signs{};
    for (int i = 0; i < base::kHeadDimMax; ++i) signs[i] = ResidualSign(i);
    return signs;
  }();

  const VectorCode code_;
  const int dim_;
  const Dictionary* const dictionary_;
  const Residual residual_;
  alignas(64) double x_[base::kHeadDimMax];
  alignas(64) double rest_[base::kHeadDimMax];
  alignas(64) double sum_[base::kHeadDimMax];  // of atoms; then levels
  alignas(64) uint8_t bits_[base::kHeadDimMax];
  double numbers_[base::kSparsityMax];  // coefficients as stored, without the scale
};

// The sum of the errors of a page's vectors, in order.
double QuantizePage(const QuantizeCodesArgs& args, const Dictionary* dictionary, int64_t page,
                    int64_t& n_non_finite) {
  const PageLayout& layout = args.layout;
  const VectorCode code = layout.code(args.value);
  const int64_t page_vectors = static_cast<int64_t>(layout.page_tokens) * layout.n_kv_heads;
  Quantizer quantizer(code, layout.head_dim, dictionary);
  CodedVector vector;
  double sum = 0;
  for (int64_t i = 0; i < page_vectors; ++i) {
    const int64_t at = page * page_vectors + i;
    const bool atoms = code.sparsity > 0;
    const double error = quantizer.Quantize(
        args.x.as<float>() + at * layout.head_dim,
        atoms ? args.atoms.as<uint16_t>() + at * code.sparsity : nullptr,
        atoms ? args.coefficients.as<float>() + at * code.sparsity : nullptr, vector);
    if (std::isnan(error)) ++n_non_finite;
    sum += error;
    uint8_t* block = args.pages[page] + args.page_offset +
                     layout.head_offset(args.value, static_cast<int>(i % layout.n_kv_heads));
    definition::StoreVector(code, layout.head_dim, vector, block, layout.page_tokens,
                            static_cast<int>(i / layout.n_kv_heads));
  }
  return sum;
}

}  // namespace lexico::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lexico::kernels::cpu {

HWY_EXPORT(QuantizePage);

void QuantizeCodes(const QuantizeCodesArgs& args, const Stream& stream) {
  const PageLayout& layout = args.layout;
  const int64_t page_vectors = static_cast<int64_t>(layout.page_tokens) * layout.n_kv_heads;
  const int64_t n_pages = args.x.dim(0) / page_vectors;
  const Dictionary* dictionary =
      layout.code(args.value).sparsity > 0 ? &AsCpu(*args.dictionary) : nullptr;
  int64_t n_non_finite = 0;
#pragma omp parallel for num_threads(stream.threads()) schedule(dynamic) reduction(+ : n_non_finite)
  for (int64_t page = 0; page < n_pages; ++page) {
    const double sum = HWY_DYNAMIC_DISPATCH(QuantizePage)(args, dictionary, page, n_non_finite);
    args.page_error[page] = static_cast<float>(sum / static_cast<double>(page_vectors));
  }
  *args.n_non_finite += n_non_finite;
}

}  // namespace lexico::kernels::cpu
#endif  // HWY_ONCE

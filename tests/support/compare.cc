#include "tests/support/compare.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

namespace lexico::tests {
namespace {

using kernels::DType;
using kernels::TensorView;

std::string ShapeText(const TensorView& view) {
  std::string text = kernels::DTypeName(view.dtype);
  text += " [";
  for (int i = 0; i < view.rank; ++i) {
    text += fmt::format("{}{}", i == 0 ? "" : ", ", view.shape[i]);
  }
  return text + "]";
}

std::string Coordinates(const TensorView& view, int64_t index) {
  std::string text;
  for (int i = view.rank - 1; i >= 0; --i) {
    text = fmt::format("{}{}{}", index % view.shape[i], text.empty() ? "" : ", ", text);
    index /= view.shape[i];
  }
  return "[" + text + "]";
}

bool SameShape(const TensorView& a, const TensorView& b) {
  if (a.rank != b.rank) return false;
  for (int i = 0; i < a.rank; ++i) {
    if (a.shape[i] != b.shape[i]) return false;
  }
  return true;
}

double HalfValue(uint16_t bits) {
  const int exponent = (bits >> 10) & 0x1f;
  const int mantissa = bits & 0x3ff;
  double magnitude = 0;
  if (exponent == 0x1f) {
    magnitude = mantissa != 0 ? std::numeric_limits<double>::quiet_NaN()
                              : std::numeric_limits<double>::infinity();
  } else if (exponent == 0) {
    magnitude = std::ldexp(mantissa, -24);
  } else {
    magnitude = std::ldexp(1024 + mantissa, exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

double Element(const TensorView& view, int64_t i) {
  switch (view.dtype) {
    case DType::kF32:
      return view.as<float>()[i];
    case DType::kF16:
      return HalfValue(view.as<uint16_t>()[i]);
    case DType::kBF16:
      return std::bit_cast<float>(static_cast<uint32_t>(view.as<uint16_t>()[i]) << 16);
    default:
      break;
  }
  LEXICO_UNREACHABLE();
}

// |actual - expected|; NaN when either is, 0 for equal infinities.
double Difference(double actual, double expected) {
  if (actual == expected) return 0;
  return std::abs(actual - expected);
}

std::string Describe(const TensorView& actual, int64_t i, double expected, double bound) {
  const double value = Element(actual, i);
  return fmt::format("{}: actual {:.9g}, expected {:.9g}, difference {:.3g}, bound {:.3g}",
                     Coordinates(actual, i), value, expected, Difference(value, expected), bound);
}

}  // namespace

double Epsilon(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 0x1p-23;
    case DType::kF16:
      return 0x1p-10;
    case DType::kBF16:
      return 0x1p-7;
    default:
      break;
  }
  LEXICO_UNREACHABLE();
}

testing::AssertionResult IsClose(const TensorView& actual, const TensorView& expected,
                                 const TensorView& magnitude, double ulps) {
  if (!SameShape(actual, expected) || !SameShape(actual, magnitude)) {
    return testing::AssertionFailure()
           << "shapes differ: actual " << ShapeText(actual) << ", expected " << ShapeText(expected)
           << ", magnitude " << ShapeText(magnitude);
  }
  const double unit = ulps * Epsilon(actual.dtype);
  int64_t failures = 0;
  int64_t first = -1;
  int64_t worst = -1;
  double worst_ratio = -1;
  for (int64_t i = 0; i < actual.size(); ++i) {
    const double difference = Difference(Element(actual, i), Element(expected, i));
    const double bound = unit * Element(magnitude, i);
    // An infinite difference is never within a bound, not even an infinite one.
    if (difference <= bound && std::isfinite(difference)) continue;
    ++failures;
    if (first < 0) first = i;
    // A difference that is not a number is as bad as it gets; the first such stays the worst.
    double ratio = difference / bound;
    if (std::isnan(ratio)) ratio = std::numeric_limits<double>::infinity();
    if (ratio > worst_ratio) {
      worst_ratio = ratio;
      worst = i;
    }
  }
  if (failures == 0) return testing::AssertionSuccess();
  return testing::AssertionFailure()
         << failures << " of " << actual.size() << " elements of " << ShapeText(actual)
         << " are not close\n  worst "
         << Describe(actual, worst, Element(expected, worst), unit * Element(magnitude, worst))
         << "\n  first "
         << Describe(actual, first, Element(expected, first), unit * Element(magnitude, first));
}

testing::AssertionResult SameBits(const TensorView& actual, const TensorView& expected) {
  if (actual.dtype != expected.dtype || !SameShape(actual, expected)) {
    return testing::AssertionFailure()
           << "shapes differ: actual " << ShapeText(actual) << ", expected " << ShapeText(expected);
  }
  const size_t width = kernels::DTypeBytes(actual.dtype);
  const auto* a = static_cast<const char*>(actual.data);
  const auto* b = static_cast<const char*>(expected.data);
  for (int64_t i = 0; i < actual.size(); ++i) {
    if (std::memcmp(a + i * width, b + i * width, width) != 0) {
      return testing::AssertionFailure() << "first different element of " << ShapeText(actual)
                                         << " is " << Coordinates(actual, i);
    }
  }
  return testing::AssertionSuccess();
}

}  // namespace lexico::tests

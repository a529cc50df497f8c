// Vectorised elementwise ops. Rows are independent, so a row's bits do not depend on the batch.
//
// All are bound by memory. Threads start only when a call has at least kThreadElements elements:
// below that, waking a thread costs more than the work (a few microseconds).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/elementwise.h"
#include "proto/base/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise_simd.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/elementwise_exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu {
namespace HWY_NAMESPACE {

using D = hn::ScalableTag<float>;

// Calls body(i, n) for runs of vectors, then for single elements as vectors of one: the same
// operations on every element, wherever it stands.
template <class Body>
HWY_INLINE void ForVectors(int64_t n, const Body& body) {
  const D d;
  const int64_t lanes = hn::Lanes(d);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(d, i);
  for (; i < n; ++i) body(hn::CappedTag<float, 1>(), i);
}

void NormRow(const float* x, const float* weight, int64_t n, float epsilon, float* y) {
  const D d;
  const int64_t lanes = hn::Lanes(d);
  auto sum0 = hn::Zero(d);
  auto sum1 = hn::Zero(d);
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const auto a = hn::LoadU(d, x + i);
    const auto b = hn::LoadU(d, x + i + lanes);
    sum0 = hn::MulAdd(a, a, sum0);
    sum1 = hn::MulAdd(b, b, sum1);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
  for (; i < n; ++i) sum += x[i] * x[i];
  const float scale = 1.0f / std::sqrt(sum / static_cast<float>(n) + epsilon);
  ForVectors(n, [&](auto t, int64_t at) HWY_ATTR {
    const auto scaled = hn::Mul(hn::LoadU(t, x + at), hn::Set(t, scale));
    hn::StoreU(hn::Mul(scaled, hn::LoadU(t, weight + at)), t, y + at);
  });
}

// One head: low half and high half rotate together.
void RotateHead(const float* x, const float* cosine, const float* sine, int half, float* y) {
  ForVectors(half, [&](auto t, int64_t i) HWY_ATTR {
    const auto c = hn::LoadU(t, cosine + i);
    const auto s = hn::LoadU(t, sine + i);
    const auto low = hn::LoadU(t, x + i);
    const auto high = hn::LoadU(t, x + half + i);
    hn::StoreU(hn::MulSub(low, c, hn::Mul(high, s)), t, y + i);
    hn::StoreU(hn::MulAdd(high, c, hn::Mul(low, s)), t, y + half + i);
  });
}

void AddArrays(const float* a, const float* b, int64_t n, float* sum) {
  ForVectors(n, [&](auto t, int64_t i) HWY_ATTR {
    hn::StoreU(hn::Add(hn::LoadU(t, a + i), hn::LoadU(t, b + i)), t, sum + i);
  });
}

// silu(g) from e = exp(-|g|) <= 1, which cannot overflow: g / (1 + e), or g e / (1 + e) below 0.
void SwiGluRow(const float* gate, const float* up, int64_t n, float* y) {
  ForVectors(n, [&](auto t, int64_t i) HWY_ATTR {
    const auto g = hn::LoadU(t, gate + i);
    const auto e = ExpNonPositive(t, hn::Neg(hn::Abs(g)));
    const auto numerator = hn::IfThenElse(hn::Lt(g, hn::Zero(t)), hn::Mul(g, e), g);
    const auto silu = hn::Div(numerator, hn::Add(hn::Set(t, 1.0f), e));
    hn::StoreU(hn::Mul(silu, hn::LoadU(t, up + i)), t, y + i);
  });
}

void ExpArray(const float* x, int64_t n, bool base2, float* y) {
  ForVectors(n, [&](auto t, int64_t i) HWY_ATTR {
    const auto v = hn::LoadU(t, x + i);
    hn::StoreU(base2 ? Exp2NonPositive(t, v) : ExpNonPositive(t, v), t, y + i);
  });
}

void WidenBf16(const uint16_t* from, int64_t n, float* to) {
  ForVectors(n, [&](auto t, int64_t i) HWY_ATTR {
    const hn::RebindToUnsigned<decltype(t)> du32;
    const hn::Rebind<uint16_t, decltype(t)> du16;
    const auto bits = hn::ShiftLeft<16>(hn::PromoteTo(du32, hn::LoadU(du16, from + i)));
    hn::StoreU(hn::BitCast(t, bits), t, to + i);
  });
}

void NarrowBf16(const float* from, int64_t n, uint16_t* to) {
  ForVectors(n, [&](auto t, int64_t i) HWY_ATTR {
    const hn::RebindToUnsigned<decltype(t)> du32;
    const hn::Rebind<uint16_t, decltype(t)> du16;
    const auto value = hn::LoadU(t, from + i);
    const auto bits = hn::BitCast(du32, value);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du32, 1));
    const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du32, 0x7fff))));
    const auto quiet = hn::Or(hn::ShiftRight<16>(bits), hn::Set(du32, 0x40));
    const auto is_nan = hn::RebindMask(du32, hn::IsNaN(value));
    const hn::RebindToSigned<decltype(du32)> di32;
    const auto narrow = hn::BitCast(di32, hn::IfThenElse(is_nan, quiet, rounded));
    hn::StoreU(hn::DemoteTo(du16, narrow), du16, to + i);
  });
}

void WidenF16(const uint16_t* from, int64_t n, float* to) {
#if HWY_TARGET <= HWY_AVX2  // F16C
  ForVectors(n, [&](auto t, int64_t i) HWY_ATTR {
    const hn::Rebind<hwy::float16_t, decltype(t)> df16;
    const auto half = hn::LoadU(df16, reinterpret_cast<const hwy::float16_t*>(from) + i);
    hn::StoreU(hn::PromoteTo(t, half), t, to + i);
  });
#else
  for (int64_t i = 0; i < n; ++i) to[i] = F16ToFloat(from[i]);
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace lexico::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lexico::kernels::cpu {
namespace {

HWY_EXPORT(NormRow);
HWY_EXPORT(RotateHead);
HWY_EXPORT(AddArrays);
HWY_EXPORT(SwiGluRow);
HWY_EXPORT(ExpArray);
HWY_EXPORT(WidenBf16);
HWY_EXPORT(NarrowBf16);
HWY_EXPORT(WidenF16);

constexpr int64_t kThreadElements = 1 << 15;

int ThreadsFor(int64_t elements, int threads) { return elements < kThreadElements ? 1 : threads; }

// Positions are split as kRopeStep * a + b. cos and sin of both parts are taken in double and
// joined by the addition theorem (error 3e-16, far below F32): a chunk of n consecutive positions
// needs kRopeStep + n / kRopeStep evaluations a frequency instead of n. The split depends on the
// position alone, so a row's bits do not depend on its neighbours.
constexpr int kRopeStep = 64;

class RopeAngles {
 public:
  explicit RopeAngles(std::span<const double> inv_frequency)
      : inv_frequency_(inv_frequency),
        coarse_(inv_frequency.size()),
        fine_(inv_frequency.size() * kRopeStep),
        fine_known_(kRopeStep, false) {}

  void Fill(int64_t position, float* cosine, float* sine) {
    const size_t half = inv_frequency_.size();
    const int64_t step = position / kRopeStep;
    const auto rest = static_cast<size_t>(position % kRopeStep);
    if (step != coarse_step_) {
      Evaluate(step * kRopeStep, coarse_.data());
      coarse_step_ = step;
    }
    Angle* fine = fine_.data() + rest * half;
    if (!fine_known_[rest]) {
      Evaluate(static_cast<int64_t>(rest), fine);
      fine_known_[rest] = true;
    }
    for (size_t i = 0; i < half; ++i) {
      const Angle& a = coarse_[i];
      const Angle& b = fine[i];
      cosine[i] = static_cast<float>(a.cosine * b.cosine - a.sine * b.sine);
      sine[i] = static_cast<float>(a.sine * b.cosine + a.cosine * b.sine);
    }
  }

 private:
  struct Angle {
    double cosine;
    double sine;
  };
  void Evaluate(int64_t position, Angle* to) const {
    for (size_t i = 0; i < inv_frequency_.size(); ++i) {
      const double angle = static_cast<double>(position) * inv_frequency_[i];
      to[i] = {std::cos(angle), std::sin(angle)};
    }
  }

  std::span<const double> inv_frequency_;
  std::vector<Angle> coarse_;  // [head_dim / 2]
  int64_t coarse_step_ = -1;
  std::vector<Angle> fine_;  // [kRopeStep, head_dim / 2]
  std::vector<bool> fine_known_;
};

// n elements of 16 bits to F32; also the rows of Embed.
void Widen(const void* from, DType dtype, int64_t n, float* to) {
  switch (dtype) {
    case DType::kF32:
      std::memcpy(to, from, n * sizeof(float));
      return;
    case DType::kBF16:
      return HWY_DYNAMIC_DISPATCH(WidenBf16)(static_cast<const uint16_t*>(from), n, to);
    case DType::kF16:
      return HWY_DYNAMIC_DISPATCH(WidenF16)(static_cast<const uint16_t*>(from), n, to);
    default:
      LEXICO_UNREACHABLE();
  }
}

void Narrow(const float* from, int64_t n, DType dtype, void* to) {
  switch (dtype) {
    case DType::kF32:
      std::memcpy(to, from, n * sizeof(float));
      return;
    case DType::kBF16:
      return HWY_DYNAMIC_DISPATCH(NarrowBf16)(from, n, static_cast<uint16_t*>(to));
    case DType::kF16:
      for (int64_t i = 0; i < n; ++i) static_cast<uint16_t*>(to)[i] = FloatToF16(from[i]);
      return;
    default:
      LEXICO_UNREACHABLE();
  }
}

}  // namespace

void RmsNorm(TensorView x, TensorView weight, float epsilon, MutableTensorView y, int threads) {
  const int64_t n = x.dim(1);
#pragma omp parallel for num_threads(ThreadsFor(x.size(), threads)) schedule(static)
  for (int64_t row = 0; row < x.dim(0); ++row) HWY_DYNAMIC_DISPATCH(NormRow)
  (x.as<float>() + row * n, weight.as<float>(), n, epsilon, y.as_mutable<float>() + row * n);
}

namespace {

// Working memory of one thread of RotateAndSplit.
struct RowRotation {
  explicit RowRotation(const RopeArgs& args)
      : angles(std::span(args.inv_frequency, args.head_dim / 2)),
        cosine(args.head_dim / 2),
        sine(args.head_dim / 2),
        biased(args.bias == nullptr ? 0 : args.qkv.dim(1)) {}
  RopeAngles angles;
  std::vector<float> cosine;  // [head_dim / 2]
  std::vector<float> sine;    // [head_dim / 2]
  std::vector<float> biased;  // [a row of qkv]
};

void RotateRow(const RopeArgs& args, int64_t row, RowRotation& scratch) {
  const int64_t width = args.qkv.dim(1);
  const int half = args.head_dim / 2;
  const int64_t q_dim = static_cast<int64_t>(args.n_heads) * args.head_dim;
  const int64_t kv_dim = static_cast<int64_t>(args.n_kv_heads) * args.head_dim;
  const float* x = args.qkv.as<float>() + row * width;
  if (args.bias != nullptr) {
    HWY_DYNAMIC_DISPATCH(AddArrays)(x, args.bias, width, scratch.biased.data());
    x = scratch.biased.data();
  }
  scratch.angles.Fill(args.positions[row], scratch.cosine.data(), scratch.sine.data());
  const auto rotate = [&](const float* from, int n_heads, float* to) {
    for (int head = 0; head < n_heads; ++head) {
      const int64_t at = static_cast<int64_t>(head) * args.head_dim;
      HWY_DYNAMIC_DISPATCH(RotateHead)
      (from + at, scratch.cosine.data(), scratch.sine.data(), half, to + at);
    }
  };
  rotate(x, args.n_heads, args.q.as_mutable<float>() + row * q_dim);
  rotate(x + q_dim, args.n_kv_heads, args.k.as_mutable<float>() + row * kv_dim);
  std::memcpy(args.v.as_mutable<float>() + row * kv_dim, x + q_dim + kv_dim,
              kv_dim * sizeof(float));
}

}  // namespace

void RotateAndSplit(const RopeArgs& args, int threads) {
#pragma omp parallel num_threads(ThreadsFor(args.qkv.size(), threads))
  {
    RowRotation scratch(args);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < args.qkv.dim(0); ++row) RotateRow(args, row, scratch);
  }
}

void SwiGlu(TensorView gate_up, MutableTensorView y, int threads) {
  const int64_t n = y.dim(1);
#pragma omp parallel for num_threads(ThreadsFor(gate_up.size(), threads)) schedule(static)
  for (int64_t row = 0; row < y.dim(0); ++row) {
    const float* gate = gate_up.as<float>() + row * 2 * n;
    HWY_DYNAMIC_DISPATCH(SwiGluRow)(gate, gate + n, n, y.as_mutable<float>() + row * n);
  }
}

void Embed(TensorView table, std::span<const int32_t> ids, MutableTensorView y, int threads) {
  const int64_t n = table.dim(1);
  const auto n_rows = static_cast<int64_t>(ids.size());
  const size_t row_bytes = n * DTypeBytes(table.dtype);
#pragma omp parallel for num_threads(ThreadsFor(y.size(), threads)) schedule(static)
  for (int64_t row = 0; row < n_rows; ++row)
    Widen(static_cast<const uint8_t*>(table.data) + ids[row] * row_bytes, table.dtype, n,
          y.as_mutable<float>() + row * n);
}

void Convert(TensorView from, MutableTensorView to, int threads) {
  constexpr int64_t kPiece = 4096;
  const int64_t n = from.size();
  const size_t from_bytes = DTypeBytes(from.dtype);
  const size_t to_bytes = DTypeBytes(to.dtype);
#pragma omp parallel for num_threads(ThreadsFor(n, threads)) schedule(static)
  for (int64_t begin = 0; begin < n; begin += kPiece) {
    const int64_t count = std::min(kPiece, n - begin);
    const uint8_t* source = static_cast<const uint8_t*>(from.data) + begin * from_bytes;
    uint8_t* target = static_cast<uint8_t*>(const_cast<void*>(to.data)) + begin * to_bytes;
    if (from.dtype == to.dtype) {
      std::memcpy(target, source, count * from_bytes);
    } else if (from.dtype == DType::kF32) {
      Narrow(reinterpret_cast<const float*>(source), count, to.dtype, target);
    } else {
      float wide[kPiece];
      Widen(source, from.dtype, count, wide);
      Narrow(wide, count, to.dtype, target);
    }
  }
}

void ExpNonPositive(std::span<const float> x, std::span<float> y) {
  HWY_DYNAMIC_DISPATCH(ExpArray)(x.data(), static_cast<int64_t>(x.size()), false, y.data());
}

void Exp2NonPositive(std::span<const float> x, std::span<float> y) {
  HWY_DYNAMIC_DISPATCH(ExpArray)(x.data(), static_cast<int64_t>(x.size()), true, y.data());
}

}  // namespace lexico::kernels::cpu
#endif  // HWY_ONCE

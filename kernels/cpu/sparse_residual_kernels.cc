#include "kernels/cpu/sparse_residual_kernels.h"

#include <algorithm>
#include <cstring>

#include "kernels/api/residual.h"
#include "kernels/cpu/rotation.h"
#include "proto/base/limits.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/sparse_residual_kernels.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/codes-inl.h"

#ifndef LEXICO_SPARSE_RESIDUAL_ONCE
#define LEXICO_SPARSE_RESIDUAL_ONCE
namespace lexico::kernels::cpu {
inline constexpr int kByteValues = 256;
// Scores taken together: their sums are independent, which hides the latency of the look-ups.
inline constexpr int kResidualTokens = 4;
// Tokens whose weights are made at a time.
inline constexpr int kWeightTokens = 32;
}  // namespace lexico::kernels::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

struct Factors {
  explicit Factors(int bits) {
    const ResidualLevels levels = LevelsOf(bits);
    for (int p = 0; p < levels.n_terms; ++p) values[p] = static_cast<float>(levels.factors[p]);
  }
  float values[kLevelTermsMax] = {};
};

// Byte j of term p of one vector's residual.
template <int kBits>
HWY_INLINE uint8_t TermByte(const uint8_t* residual, int plane_bytes, int p, int j) {
  if (p < kBits) return residual[p * plane_bytes + j];
  return residual[j] ^ residual[plane_bytes + j] ^ residual[2 * plane_bytes + j];
}

template <int kGroup, int kBits, int kTokens>
HWY_INLINE void AddTokenScores(const uint8_t* HWY_RESTRICT residual, int plane_bytes,
                               const float* HWY_RESTRICT scales, const Factors& factors,
                               const float* HWY_RESTRICT table, float* HWY_RESTRICT scores) {
  using Tag = hn::CappedTag<float, kGroup>;
  const Tag d;
  constexpr size_t kLanes = hn::MaxLanes(Tag());
  constexpr size_t kVectors = kGroup / kLanes;
  constexpr int kTerms = kBits == 3 ? 4 : kBits;
  for (int p = 0; p < kTerms; ++p) {
    hn::Vec<Tag> sum[kTokens * kVectors];
#pragma GCC unroll 16
    for (size_t v = 0; v < kTokens * kVectors; ++v) sum[v] = hn::Zero(d);
    for (int j = 0; j < plane_bytes; ++j) {
      const float* of_byte = table + static_cast<size_t>(j) * kByteValues * kGroup;
#pragma GCC unroll 4
      for (int u = 0; u < kTokens; ++u) {
        const uint8_t byte = TermByte<kBits>(residual + u * kBits * plane_bytes, plane_bytes, p, j);
        const float* entry = of_byte + static_cast<size_t>(byte) * kGroup;
#pragma GCC unroll 4
        for (size_t v = 0; v < kVectors; ++v) {
          auto& s = sum[u * kVectors + v];
          s = hn::Add(s, hn::LoadU(d, entry + v * kLanes));
        }
      }
    }
#pragma GCC unroll 4
    for (int u = 0; u < kTokens; ++u) {
      const auto factor = hn::Set(d, scales[u] * factors.values[p]);
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v) {
        float* to = scores + u * kGroup + v * kLanes;
        hn::StoreU(hn::MulAdd(factor, sum[u * kVectors + v], hn::LoadU(d, to)), d, to);
      }
    }
  }
}

template <int kGroup, int kBits>
void AddScoresOf(const PageList& pages, int64_t n_pages, const PageLayout& layout, int kv_head,
                 const float* table, float* scores) {
  const int plane_bytes = layout.head_dim / 8;
  const size_t token_bytes = static_cast<size_t>(kBits) * plane_bytes;
  const Factors factors(kBits);
  float scales[base::kPageTokensMax + kCodesPadding];
  for (int64_t page = 0; page < n_pages; ++page) {
    const CodeView codes = CodesOf(pages[page], layout, false, kv_head);
    WidenHalves(codes.residual_scales, layout.page_tokens, scales);
    int t = 0;
    for (; t + kResidualTokens <= layout.page_tokens; t += kResidualTokens) {
      AddTokenScores<kGroup, kBits, kResidualTokens>(codes.residual + t * token_bytes, plane_bytes,
                                                     scales + t, factors, table, scores);
      scores += kResidualTokens * kGroup;
    }
    for (; t < layout.page_tokens; ++t) {
      AddTokenScores<kGroup, kBits, 1>(codes.residual + t * token_bytes, plane_bytes, scales + t,
                                       factors, table, scores);
      scores += kGroup;
    }
  }
}

template <int kGroup>
void AddScoresOfGroup(const PageList& pages, int64_t n_pages, const PageLayout& layout, int kv_head,
                      const float* table, float* scores) {
  switch (layout.form_k.residual_bits) {
    case 1:
      return AddScoresOf<kGroup, 1>(pages, n_pages, layout, kv_head, table, scores);
    case 2:
      return AddScoresOf<kGroup, 2>(pages, n_pages, layout, kv_head, table, scores);
    default:
      return AddScoresOf<kGroup, 3>(pages, n_pages, layout, kv_head, table, scores);
  }
}

void AddScoresSimd(const PageList& pages, int64_t n_pages, const PageLayout& layout, int kv_head,
                   const float* table, int lanes, float* scores) {
  switch (lanes) {
    case 1:
      return AddScoresOfGroup<1>(pages, n_pages, layout, kv_head, table, scores);
    case 2:
      return AddScoresOfGroup<2>(pages, n_pages, layout, kv_head, table, scores);
    case 4:
      return AddScoresOfGroup<4>(pages, n_pages, layout, kv_head, table, scores);
    case 8:
      return AddScoresOfGroup<8>(pages, n_pages, layout, kv_head, table, scores);
    default:
      return AddScoresOfGroup<16>(pages, n_pages, layout, kv_head, table, scores);
  }
}

// One strip of columns, kVectors of Tag, of kHeads heads: the sums stay in registers over n tokens.
// residual and sums begin at the strip's first column; weights [n, lanes] at its first head.
template <int kHeads, int kBits, size_t kVectors, class Tag>
HWY_INLINE void AddStrip(Tag d, const uint8_t* HWY_RESTRICT residual, size_t plane_bytes,
                         size_t column, int n, const float* HWY_RESTRICT weights, int lanes,
                         const Factors& factors, size_t stride, float* HWY_RESTRICT sums) {
  constexpr size_t kLanes = hn::MaxLanes(Tag());
  hn::Vec<Tag> sum[kHeads * kVectors];
#pragma GCC unroll 4
  for (int g = 0; g < kHeads; ++g) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      sum[g * kVectors + v] = hn::LoadU(d, sums + g * stride + v * kLanes);
    }
  }
  for (int t = 0; t < n; ++t) {
    hn::Vec<Tag> level[kVectors];
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      level[v] = Levels<kBits>(d, residual + t * kBits * plane_bytes, plane_bytes,
                               column + v * kLanes, factors.values);
    }
#pragma GCC unroll 4
    for (int g = 0; g < kHeads; ++g) {
      const auto weight = hn::Set(d, weights[t * lanes + g]);
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v) {
        auto& s = sum[g * kVectors + v];
        s = hn::MulAdd(weight, level[v], s);
      }
    }
  }
#pragma GCC unroll 4
  for (int g = 0; g < kHeads; ++g) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      hn::StoreU(sum[g * kVectors + v], d, sums + g * stride + v * kLanes);
    }
  }
}

template <int kHeads, int kBits>
void AddColumns(const uint8_t* residual, int head_dim, int n, const float* weights, int lanes,
                const Factors& factors, float* sums) {
  using Wide = hn::CappedTag<float, 16>;
  constexpr size_t kVectors = hn::MaxLanes(Wide()) == 16 ? 4 : 2;
  constexpr size_t kColumns = kVectors * hn::MaxLanes(Wide());
  const auto dim = static_cast<size_t>(head_dim);
  const size_t plane_bytes = dim / 8;
  size_t column = 0;
  for (; column + kColumns <= dim; column += kColumns) {
    AddStrip<kHeads, kBits, kVectors>(Wide(), residual, plane_bytes, column, n, weights, lanes,
                                      factors, dim, sums + column);
  }
  using Narrow = hn::CappedTag<float, 8>;
  for (; column < dim; column += hn::MaxLanes(Narrow())) {
    AddStrip<kHeads, kBits, 1>(Narrow(), residual, plane_bytes, column, n, weights, lanes, factors,
                               dim, sums + column);
  }
}

template <int kBits>
void AddValuesOf(const PageList& pages, int64_t n_pages, const PageLayout& layout, int kv_head,
                 const float* p, int lanes, float* sums) {
  const Factors factors(kBits);
  const int head_dim = layout.head_dim;
  const size_t token_bytes = static_cast<size_t>(kBits) * head_dim / 8;
  float scales[base::kPageTokensMax + kCodesPadding];
  float weights[kWeightTokens * 16];
  for (int64_t page = 0; page < n_pages; ++page) {
    if (page + 1 < n_pages) PrefetchCodes(pages[page + 1], layout, true, kv_head);
    const CodeView codes = CodesOf(pages[page], layout, true, kv_head);
    WidenHalves(codes.residual_scales, layout.page_tokens, scales);
    for (int first = 0; first < layout.page_tokens; first += kWeightTokens) {
      const int n = std::min(kWeightTokens, layout.page_tokens - first);
      for (int t = 0; t < n; ++t) {
        for (int g = 0; g < lanes; ++g) weights[t * lanes + g] = scales[first + t] * p[g];
        p += lanes;
      }
      const uint8_t* residual = codes.residual + first * token_bytes;
      if (lanes == 1) {
        AddColumns<1, kBits>(residual, head_dim, n, weights, lanes, factors, sums);
      } else if (lanes == 2) {
        AddColumns<2, kBits>(residual, head_dim, n, weights, lanes, factors, sums);
      } else {
        for (int g = 0; g < lanes; g += 4) {
          AddColumns<4, kBits>(residual, head_dim, n, weights + g, lanes, factors,
                               sums + static_cast<size_t>(g) * head_dim);
        }
      }
    }
  }
}

void AddValuesSimd(const PageList& pages, int64_t n_pages, const PageLayout& layout, int kv_head,
                   const float* p, int lanes, float* sums) {
  switch (layout.form_v.residual_bits) {
    case 1:
      return AddValuesOf<1>(pages, n_pages, layout, kv_head, p, lanes, sums);
    case 2:
      return AddValuesOf<2>(pages, n_pages, layout, kv_head, p, lanes, sums);
    default:
      return AddValuesOf<3>(pages, n_pages, layout, kv_head, p, lanes, sums);
  }
}

}  // namespace lexico::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lexico::kernels::cpu {

HWY_EXPORT(AddScoresSimd);
HWY_EXPORT(AddValuesSimd);

size_t ResidualTableFloats(int head_dim, int lanes) {
  return static_cast<size_t>(head_dim / 8) * kByteValues * lanes;
}

void FillResidualTable(const float* q, int head_dim, int lanes, float* table) {
  float rotated[base::kHeadDimMax];
  for (int g = 0; g < lanes; ++g) {
    std::memcpy(rotated, q + static_cast<size_t>(g) * head_dim, head_dim * sizeof(float));
    Rotate(rotated, head_dim);
    for (int j = 0; j < head_dim / 8; ++j) {
      const float* numbers = rotated + 8 * j;
      float* of_byte = table + static_cast<size_t>(j) * kByteValues * lanes + g;
      float sum = 0;
      for (int i = 0; i < 8; ++i) sum -= numbers[i];
      of_byte[0] = sum;
      // Each value is one with a bit less, and that bit's number counted the other way.
      for (int bit = 0; bit < 8; ++bit) {
        for (int b = 0; b < 1 << bit; ++b) {
          of_byte[((1 << bit) + b) * lanes] = of_byte[b * lanes] + 2 * numbers[bit];
        }
      }
    }
  }
}

void AddResidualScores(const PageList& pages, int64_t n_pages, const PageLayout& layout,
                       int kv_head, const float* table, int lanes, float* scores) {
  HWY_DYNAMIC_DISPATCH(AddScoresSimd)(pages, n_pages, layout, kv_head, table, lanes, scores);
}

void AddResidualValues(const PageList& pages, int64_t n_pages, const PageLayout& layout,
                       int kv_head, const float* p, int lanes, float* sums) {
  HWY_DYNAMIC_DISPATCH(AddValuesSimd)(pages, n_pages, layout, kv_head, p, lanes, sums);
}

}  // namespace lexico::kernels::cpu
#endif  // HWY_ONCE

#include "kernels/cpu/sparse_attention_kernels.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/cpu/code_view.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/sparse_attention_kernels.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
//
#include <hwy/contrib/math/math-inl.h>

#include "kernels/cpu/codes-inl.h"
#include "kernels/cpu/panel_tile-inl.h"

// Scores are padded to whole blocks of 16 floats, which hold a whole number of tokens and a whole
// number of vectors on every instruction set.
#ifndef LEXICO_SPARSE_ATTENTION_BLOCK
#define LEXICO_SPARSE_ATTENTION_BLOCK
namespace lexico::kernels::cpu {
inline constexpr size_t kScoreBlock = 16;
// Tokens taken together: their sums are independent, which hides the latency of the multiply-adds.
inline constexpr int kTokensTogether = 4;
}  // namespace lexico::kernels::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using BlockTag = hn::CappedTag<float, kScoreBlock>;
inline constexpr size_t kBlockLanes = hn::MaxLanes(BlockTag());
inline constexpr size_t kBlockVectors = kScoreBlock / kBlockLanes;

template <typename Element>
void FillTableOf(const AttentionAtoms& dictionary, const float* q, int lanes, int panel_begin,
                 int panel_end, float* table) {
  const int head_dim = dictionary.head_dim();
  alignas(64) float tile[kGroupLanesMax * kPanelAtoms];
  for (int panel = panel_begin; panel < panel_end; ++panel) {
    const Element* atoms = static_cast<const Element*>(dictionary.panels()) +
                           static_cast<size_t>(panel) * head_dim * kPanelAtoms;
    if (lanes == 1) {
      PanelTile<1>(atoms, q, head_dim, head_dim, tile);
    } else if (lanes == 2) {
      PanelTile<2>(atoms, q, head_dim, head_dim, tile);
    } else {
      for (int g = 0; g < lanes; g += 4) {
        PanelTile<4>(atoms, q + g * head_dim, head_dim, head_dim, tile + g * kPanelAtoms);
      }
    }
    const float* inverse_norms = dictionary.inverse_norms() + panel * kPanelAtoms;
    float* to = table + static_cast<size_t>(panel) * kPanelAtoms * lanes;
    for (int j = 0; j < kPanelAtoms; ++j) {
      for (int g = 0; g < lanes; ++g) {
        to[j * lanes + g] = inverse_norms[j] * tile[g * kPanelAtoms + j];
      }
    }
  }
}

void FillTableSimd(const AttentionAtoms& dictionary, const float* q, int lanes, int panel_begin,
                   int panel_end, float* table) {
  if (dictionary.dtype() == DType::kF16) {
    return FillTableOf<uint16_t>(dictionary, q, lanes, panel_begin, panel_end, table);
  }
  FillTableOf<float>(dictionary, q, lanes, panel_begin, panel_end, table);
}

// The numbers of one code's heads: kVectors vectors of Tag.
template <int kGroup>
struct Entry {
  using Tag = hn::CappedTag<float, kGroup>;
  static constexpr size_t kLanes = hn::MaxLanes(Tag());
  static constexpr size_t kVectors = kGroup / kLanes;
};

// scores[u, g] for kTokens tokens whose codes lie one after another, of scale 1.
template <int kGroup, int kTokens>
HWY_INLINE void ScoreTokens(const uint16_t* HWY_RESTRICT atoms, const float* HWY_RESTRICT c,
                            int sparsity, const float* HWY_RESTRICT table,
                            float* HWY_RESTRICT scores) {
  using E = Entry<kGroup>;
  const typename E::Tag d;
  hn::Vec<typename E::Tag> sum[kTokens * E::kVectors];
#pragma GCC unroll 16
  for (size_t v = 0; v < kTokens * E::kVectors; ++v) sum[v] = hn::Zero(d);
  for (int j = 0; j < sparsity; ++j) {
#pragma GCC unroll 4
    for (int u = 0; u < kTokens; ++u) {
      const float* entry = table + size_t{atoms[u * sparsity + j]} * kGroup;
      const auto factor = hn::Set(d, c[u * sparsity + j]);
#pragma GCC unroll 4
      for (size_t v = 0; v < E::kVectors; ++v) {
        auto& s = sum[u * E::kVectors + v];
        s = hn::MulAdd(factor, hn::LoadU(d, entry + v * E::kLanes), s);
      }
    }
  }
#pragma GCC unroll 16
  for (size_t v = 0; v < kTokens * E::kVectors; ++v) {
    hn::StoreU(sum[v], d, scores + v * E::kLanes);
  }
}

template <int kGroup, int kTokens>
HWY_INLINE void ScoreAtoms(PageAtoms<kTokensTogether>& atoms, int t, int sparsity,
                           const float* HWY_RESTRICT table, float* HWY_RESTRICT scores) {
  atoms.Read(t, kTokens);
  ScoreTokens<kGroup, kTokens>(atoms.atoms(), atoms.numbers(), sparsity, table, scores);
  if (!atoms.has_scales()) return;
  for (int u = 0; u < kTokens; ++u) {
    for (int g = 0; g < kGroup; ++g) scores[u * kGroup + g] *= atoms.scale(t + u);
  }
}

template <int kGroup>
void ScorePagesOf(const PageList& pages, int64_t n_pages, const PageLayout& layout, int kv_head,
                  const float* table, float* scores) {
  const VectorCode code = layout.code(false);
  for (int64_t p = 0; p < n_pages; ++p) {
    if (p + 1 < n_pages) PrefetchCodes(pages[p + 1], layout, false, kv_head);
    PageAtoms<kTokensTogether> atoms(CodesOf(pages[p], layout, false, kv_head), code,
                                     layout.page_tokens);
    int t = 0;
    for (; t + kTokensTogether <= layout.page_tokens; t += kTokensTogether) {
      ScoreAtoms<kGroup, kTokensTogether>(atoms, t, code.sparsity, table, scores);
      scores += kTokensTogether * kGroup;
    }
    for (; t < layout.page_tokens; ++t) {
      ScoreAtoms<kGroup, 1>(atoms, t, code.sparsity, table, scores);
      scores += kGroup;
    }
  }
}

template <int kGroup>
void AddWeightsOf(const PageList& pages, int64_t n_pages, const PageLayout& layout, int kv_head,
                  const float* HWY_RESTRICT p, float* HWY_RESTRICT weights) {
  using E = Entry<kGroup>;
  const typename E::Tag d;
  const VectorCode code = layout.code(true);
  for (int64_t page = 0; page < n_pages; ++page) {
    if (page + 1 < n_pages) PrefetchCodes(pages[page + 1], layout, true, kv_head);
    PageAtoms<1> atoms(CodesOf(pages[page], layout, true, kv_head), code, layout.page_tokens);
    for (int t = 0; t < layout.page_tokens; ++t) {
      atoms.Read(t, 1);
      const uint16_t* HWY_RESTRICT indices = atoms.atoms();
      const float* HWY_RESTRICT c = atoms.numbers();
      hn::Vec<typename E::Tag> probability[E::kVectors];
#pragma GCC unroll 4
      for (size_t v = 0; v < E::kVectors; ++v) probability[v] = hn::LoadU(d, p + v * E::kLanes);
      if (atoms.has_scales()) {
        const auto scale = hn::Set(d, atoms.scale(t));
#pragma GCC unroll 4
        for (size_t v = 0; v < E::kVectors; ++v) probability[v] = hn::Mul(probability[v], scale);
      }
      for (int j = 0; j < code.sparsity; ++j) {
        float* entry = weights + size_t{indices[j]} * kGroup;
        const auto factor = hn::Set(d, c[j]);
#pragma GCC unroll 4
        for (size_t v = 0; v < E::kVectors; ++v) {
          const auto sum = hn::LoadU(d, entry + v * E::kLanes);
          hn::StoreU(hn::MulAdd(factor, probability[v], sum), d, entry + v * E::kLanes);
        }
      }
      p += kGroup;
    }
  }
}

void ScorePagesSimd(const PageList& pages, int64_t n_pages, const PageLayout& layout, int kv_head,
                    const float* table, int lanes, float* scores) {
  switch (lanes) {
    case 1:
      return ScorePagesOf<1>(pages, n_pages, layout, kv_head, table, scores);
    case 2:
      return ScorePagesOf<2>(pages, n_pages, layout, kv_head, table, scores);
    case 4:
      return ScorePagesOf<4>(pages, n_pages, layout, kv_head, table, scores);
    case 8:
      return ScorePagesOf<8>(pages, n_pages, layout, kv_head, table, scores);
    default:
      return ScorePagesOf<16>(pages, n_pages, layout, kv_head, table, scores);
  }
}

void AddWeightsSimd(const PageList& pages, int64_t n_pages, const PageLayout& layout, int kv_head,
                    const float* p, int lanes, float* weights) {
  switch (lanes) {
    case 1:
      return AddWeightsOf<1>(pages, n_pages, layout, kv_head, p, weights);
    case 2:
      return AddWeightsOf<2>(pages, n_pages, layout, kv_head, p, weights);
    case 4:
      return AddWeightsOf<4>(pages, n_pages, layout, kv_head, p, weights);
    case 8:
      return AddWeightsOf<8>(pages, n_pages, layout, kv_head, p, weights);
    default:
      return AddWeightsOf<16>(pages, n_pages, layout, kv_head, p, weights);
  }
}

// Place i of a block belongs to head i % lanes, because lanes divides 16.
void SoftmaxSimd(float* scores, size_t n_floats, int lanes, float* max, float* sum) {
  const BlockTag d;
  alignas(64) float block[kScoreBlock];
  hn::Vec<BlockTag> m[kBlockVectors];
  hn::Vec<BlockTag> s[kBlockVectors];
#pragma GCC unroll 4
  for (size_t v = 0; v < kBlockVectors; ++v) {
    m[v] = hn::Set(d, -std::numeric_limits<float>::infinity());
    s[v] = hn::Zero(d);
  }
  for (size_t i = 0; i < n_floats; i += kScoreBlock) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kBlockVectors; ++v) {
      m[v] = hn::Max(m[v], hn::LoadU(d, scores + i + v * kBlockLanes));
    }
  }
#pragma GCC unroll 4
  for (size_t v = 0; v < kBlockVectors; ++v) hn::StoreU(m[v], d, block + v * kBlockLanes);
  for (int g = 0; g < lanes; ++g) {
    max[g] = block[g];
    for (size_t i = g + lanes; i < kScoreBlock; i += lanes) max[g] = std::max(max[g], block[i]);
  }
  for (size_t i = 0; i < kScoreBlock; ++i) block[i] = max[i % lanes];
#pragma GCC unroll 4
  for (size_t v = 0; v < kBlockVectors; ++v) m[v] = hn::LoadU(d, block + v * kBlockLanes);
  for (size_t i = 0; i < n_floats; i += kScoreBlock) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kBlockVectors; ++v) {
      float* at = scores + i + v * kBlockLanes;
      const auto p = hn::Exp(d, hn::Sub(hn::LoadU(d, at), m[v]));
      s[v] = hn::Add(s[v], p);
      hn::StoreU(p, d, at);
    }
  }
#pragma GCC unroll 4
  for (size_t v = 0; v < kBlockVectors; ++v) hn::StoreU(s[v], d, block + v * kBlockLanes);
  for (int g = 0; g < lanes; ++g) {
    sum[g] = 0;
    for (size_t i = g; i < kScoreBlock; i += lanes) sum[g] += block[i];
  }
}

void MergeWeightsSimd(const float* const* weights, const float* factors, int n_parts, int n_atoms,
                      int lanes, float* merged) {
  const BlockTag d;
  alignas(64) float pattern[kScoreBlock];
  const size_t n = static_cast<size_t>(n_atoms) * lanes;
  for (int s = 0; s < n_parts; ++s) {
    for (size_t i = 0; i < kScoreBlock; ++i) pattern[i] = factors[s * lanes + i % lanes];
    for (size_t i = 0; i < n; i += kScoreBlock) {
#pragma GCC unroll 4
      for (size_t v = 0; v < kScoreBlock; v += kBlockLanes) {
        const auto before = s == 0 ? hn::Zero(d) : hn::LoadU(d, merged + i + v);
        const auto factor = hn::LoadU(d, pattern + v);
        hn::StoreU(hn::MulAdd(factor, hn::LoadU(d, weights[s] + i + v), before), d, merged + i + v);
      }
    }
  }
}

// Columns of one pass: two registers, so that 4 heads are 8 sums (16 with SSE's narrow ones).
inline constexpr size_t kStripVectors = kBlockLanes == 16 ? 2 : kBlockVectors;
inline constexpr size_t kStripColumns = kStripVectors * kBlockLanes;

// kStripColumns columns of kHeads heads: the sums stay in registers over all n atoms.
template <int kHeads, typename Element>
HWY_INLINE void MultiplyStrip(const Element* HWY_RESTRICT rows, size_t stride, int n,
                              const float* HWY_RESTRICT weights, int lanes,
                              float* HWY_RESTRICT out) {
  const BlockTag d;
  hn::Vec<BlockTag> sum[kHeads * kStripVectors];
#pragma GCC unroll 4
  for (int g = 0; g < kHeads; ++g) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kStripVectors; ++v) {
      sum[g * kStripVectors + v] = hn::LoadU(d, out + g * stride + v * kBlockLanes);
    }
  }
  for (int a = 0; a < n; ++a) {
    hn::Vec<BlockTag> row[kStripVectors];
#pragma GCC unroll 4
    for (size_t v = 0; v < kStripVectors; ++v) {
      row[v] = LoadWidened(d, rows + a * stride + v * kBlockLanes);
    }
#pragma GCC unroll 4
    for (int g = 0; g < kHeads; ++g) {
      const auto factor = hn::Set(d, weights[a * lanes + g]);
#pragma GCC unroll 4
      for (size_t v = 0; v < kStripVectors; ++v) {
        auto& s = sum[g * kStripVectors + v];
        s = hn::MulAdd(factor, row[v], s);
      }
    }
  }
#pragma GCC unroll 4
  for (int g = 0; g < kHeads; ++g) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kStripVectors; ++v) {
      hn::StoreU(sum[g * kStripVectors + v], d, out + g * stride + v * kBlockLanes);
    }
  }
}

template <typename Element>
void MultiplyWeightsOf(const AttentionAtoms& dictionary, int begin, int n, const float* weights,
                       int lanes, float* out) {
  // Atoms per pass over the strips: 32 rows of 128 F16 are 8 KiB, 16 KiB in FP32.
  constexpr int kAtomsTogether = 32;
  const size_t stride = dictionary.row_stride();
  float z[kAtomsTogether * kGroupLanesMax];
  for (int first = 0; first < n; first += kAtomsTogether) {
    const int count = std::min(kAtomsTogether, n - first);
    const Element* rows = static_cast<const Element*>(dictionary.rows()) + (begin + first) * stride;
    const float* inverse_norms = dictionary.inverse_norms() + begin + first;
    const float* from = weights + static_cast<size_t>(first) * lanes;
    for (int a = 0; a < count; ++a) {
      for (int g = 0; g < lanes; ++g) z[a * lanes + g] = inverse_norms[a] * from[a * lanes + g];
    }
    for (size_t column = 0; column < stride; column += kStripColumns) {
      if (lanes == 1) {
        MultiplyStrip<1>(rows + column, stride, count, z, lanes, out + column);
      } else if (lanes == 2) {
        MultiplyStrip<2>(rows + column, stride, count, z, lanes, out + column);
      } else {
        for (int g = 0; g < lanes; g += 4) {
          MultiplyStrip<4>(rows + column, stride, count, z + g, lanes, out + g * stride + column);
        }
      }
    }
  }
}

void MultiplyWeightsSimd(const AttentionAtoms& dictionary, int begin, int n, const float* weights,
                         int lanes, float* out) {
  if (dictionary.dtype() == DType::kF16) {
    return MultiplyWeightsOf<uint16_t>(dictionary, begin, n, weights, lanes, out);
  }
  MultiplyWeightsOf<float>(dictionary, begin, n, weights, lanes, out);
}

}  // namespace lexico::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lexico::kernels::cpu {

HWY_EXPORT(FillTableSimd);
HWY_EXPORT(ScorePagesSimd);
HWY_EXPORT(SoftmaxSimd);
HWY_EXPORT(AddWeightsSimd);
HWY_EXPORT(MergeWeightsSimd);
HWY_EXPORT(MultiplyWeightsSimd);

void FillTable(const AttentionAtoms& dictionary, const float* q, int lanes, int panel_begin,
               int panel_end, float* table) {
  HWY_DYNAMIC_DISPATCH(FillTableSimd)(dictionary, q, lanes, panel_begin, panel_end, table);
}

size_t ScoreFloats(int64_t n_tokens, int lanes) {
  return (static_cast<size_t>(n_tokens) * lanes + kScoreBlock - 1) / kScoreBlock * kScoreBlock;
}

void ScorePages(const PageList& pages, int64_t n_pages, const PageLayout& layout, int kv_head,
                const float* table, int lanes, float* scores) {
  HWY_DYNAMIC_DISPATCH(ScorePagesSimd)(pages, n_pages, layout, kv_head, table, lanes, scores);
  const int64_t n_tokens = n_pages * layout.page_tokens;
  std::fill(scores + n_tokens * lanes, scores + ScoreFloats(n_tokens, lanes),
            -std::numeric_limits<float>::infinity());
}

void SoftmaxInPlace(float* scores, int64_t n_tokens, int lanes, float* max, float* sum) {
  HWY_DYNAMIC_DISPATCH(SoftmaxSimd)(scores, ScoreFloats(n_tokens, lanes), lanes, max, sum);
}

void AddWeights(const PageList& pages, int64_t n_pages, const PageLayout& layout, int kv_head,
                const float* p, int lanes, float* weights) {
  HWY_DYNAMIC_DISPATCH(AddWeightsSimd)(pages, n_pages, layout, kv_head, p, lanes, weights);
}

void MergeWeights(const float* const* weights, const float* factors, int n_parts, int n_atoms,
                  int lanes, float* merged) {
  HWY_DYNAMIC_DISPATCH(MergeWeightsSimd)(weights, factors, n_parts, n_atoms, lanes, merged);
}

void MultiplyWeights(const AttentionAtoms& dictionary, int begin, int n, const float* weights,
                     int lanes, float* out) {
  HWY_DYNAMIC_DISPATCH(MultiplyWeightsSimd)(dictionary, begin, n, weights, lanes, out);
}

}  // namespace lexico::kernels::cpu
#endif  // HWY_ONCE

// One vector is one call of CombineRows: `sparsity` rows of the dictionary are read once each and
// the sum stays in registers. Rows come from L2 or L3 (the dictionary is 2 MiB at 4096 x 128), so
// the op is bound by their 4 * sparsity * head_dim bytes a vector, not by arithmetic.
#include "kernels/cpu/reconstruct.h"

#include <cstring>

#include "kernels/cpu/code_view.h"
#include "kernels/cpu/dictionary.h"
#include "kernels/cpu/rotation.h"
#include "proto/base/limits.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/reconstruct.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/codes-inl.h"
#include "kernels/cpu/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu::HWY_NAMESPACE {

// out [head_dim] += R^T (scale * levels).
template <int kBits>
void AddResidualOf(const uint8_t* residual, int head_dim, float scale, float* out) {
  const hn::CappedTag<float, 8> d;
  const ResidualLevels levels = LevelsOf(kBits);
  float factors[kLevelTermsMax] = {};
  for (int p = 0; p < levels.n_terms; ++p) {
    factors[p] = scale * static_cast<float>(levels.factors[p]);
  }
  alignas(64) float rest[base::kHeadDimMax];
  for (int i = 0; i < head_dim; i += static_cast<int>(hn::Lanes(d))) {
    hn::StoreU(Levels<kBits>(d, residual, head_dim / 8, i, factors), d, rest + i);
  }
  RotateBack(rest, head_dim);
  for (int i = 0; i < head_dim; ++i) out[i] += rest[i];
}

void AddResidual(int bits, const uint8_t* residual, int head_dim, float scale, float* out) {
  switch (bits) {
    case 1:
      return AddResidualOf<1>(residual, head_dim, scale, out);
    case 2:
      return AddResidualOf<2>(residual, head_dim, scale, out);
    default:
      return AddResidualOf<3>(residual, head_dim, scale, out);
  }
}

// The atoms' part of one vector, scale and numbers as PageAtoms gives them.
void CombineAtoms(const Dictionary& dictionary, PageAtoms<1>& atoms, int t, int sparsity,
                  int head_dim, float* out) {
  atoms.Read(t, 1);
  alignas(64) float row[base::kHeadDimMax];
  float c[base::kSparsityMax];
  for (int j = 0; j < sparsity; ++j) c[j] = atoms.scale(t) * atoms.numbers()[j];
  CombineRows(dictionary.rows(), dictionary.row_stride(), atoms.atoms(), c, sparsity, nullptr, row);
  std::memcpy(out, row, head_dim * sizeof(float));
}

// All tokens and heads of one page into out [page_tokens, n_kv_heads, head_dim].
void ReconstructPage(const ReconstructArgs& args, const Dictionary* dictionary, const uint8_t* page,
                     float* out) {
  const PageLayout& layout = args.layout;
  const VectorCode code = layout.code(args.value);
  const int dim = layout.head_dim;
  float scales[base::kPageTokensMax + kCodesPadding];
  for (int head = 0; head < layout.n_kv_heads; ++head) {
    const CodeView codes = CodesOf(page, layout, args.value, head);
    PageAtoms<1> atoms(codes, code, layout.page_tokens);
    if (code.has_residual()) WidenHalves(codes.residual_scales, layout.page_tokens, scales);
    for (int t = 0; t < layout.page_tokens; ++t) {
      float* to = out + static_cast<size_t>(t * layout.n_kv_heads + head) * dim;
      if (code.sparsity > 0) {
        CombineAtoms(*dictionary, atoms, t, code.sparsity, dim, to);
      } else {
        std::memset(to, 0, dim * sizeof(float));
      }
      if (code.has_residual()) {
        AddResidual(code.form.residual_bits, codes.residual + t * code.residual_bytes(dim), dim,
                    scales[t], to);
      }
    }
  }
}

}  // namespace lexico::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lexico::kernels::cpu {

HWY_EXPORT(ReconstructPage);

void Reconstruct(const ReconstructArgs& args, const Stream& stream) {
  const Dictionary* dictionary =
      args.layout.code(args.value).sparsity > 0 ? &AsCpu(*args.dictionary) : nullptr;
  const PageList pages = {args.pages, args.page_offset};
  const int64_t page_floats =
      static_cast<int64_t>(args.layout.page_tokens) * args.layout.n_kv_heads * args.layout.head_dim;
#pragma omp parallel for num_threads(stream.threads()) schedule(dynamic)
  for (int64_t p = 0; p < args.n_pages; ++p) {
    HWY_DYNAMIC_DISPATCH(ReconstructPage)
    (args, dictionary, pages[p], args.out.as_mutable<float>() + p * page_floats);
  }
}

}  // namespace lexico::kernels::cpu
#endif  // HWY_ONCE

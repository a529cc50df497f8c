// One vector is one call of CombineRows: `sparsity` rows of the dictionary are read once each and
// the sum stays in registers. Rows come from L2 or L3 (the dictionary is 2 MiB at 4096 x 128), so
// the op is bound by their 4 * sparsity * head_dim bytes a vector, not by arithmetic.
#include "kernels/cpu/reconstruct.h"

#include <array>
#include <cstring>

#include "kernels/cpu/code_view.h"
#include "kernels/cpu/dictionary.h"
#include "kernels/cpu/e4m3.h"
#include "proto/base/limits.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/reconstruct.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu::HWY_NAMESPACE {

// All tokens and heads of one page into out [page_tokens, n_kv_heads, head_dim].
void ReconstructPage(const ReconstructArgs& args, const Dictionary& dictionary, const uint8_t* page,
                     float* out) {
  const PageLayout& layout = args.layout;
  const int sparsity = args.value ? layout.sparsity_v : layout.sparsity_k;
  const std::array<float, 256>& values = E4m3Values();
  alignas(64) float row[base::kHeadDimMax];
  float c[base::kSparsityMax];
  for (int head = 0; head < layout.n_kv_heads; ++head) {
    CodeView codes = CodesOf(page, layout, args.value, head);
    for (int t = 0; t < layout.page_tokens; ++t) {
      for (int j = 0; j < sparsity; ++j) c[j] = values[codes.coefs[j]];
      CombineRows(dictionary.rows(), dictionary.row_stride(), codes.atoms, c, sparsity, nullptr,
                  row);
      float* to = out + static_cast<size_t>(t * layout.n_kv_heads + head) * layout.head_dim;
      std::memcpy(to, row, layout.head_dim * sizeof(float));
      codes.atoms += sparsity;
      codes.coefs += sparsity;
    }
  }
}

}  // namespace lexico::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lexico::kernels::cpu {

HWY_EXPORT(ReconstructPage);

void Reconstruct(const ReconstructArgs& args, const Stream& stream) {
  const Dictionary& dictionary = AsCpu(*args.dictionary);
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

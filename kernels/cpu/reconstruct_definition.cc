#include "kernels/cpu/reconstruct_definition.h"

#include <cmath>

#include "kernels/api/omp_encode.h"
#include "kernels/cpu/code_view.h"
#include "kernels/cpu/dictionary.h"

namespace lexico::kernels::definition {

void Reconstruct(const ReconstructArgs& args, MutableTensorView magnitude) {
  const cpu::Dictionary& dictionary = cpu::AsCpu(*args.dictionary);
  const PageLayout& layout = args.layout;
  const cpu::PageList pages = {args.pages, args.page_offset};
  const int sparsity = args.value ? layout.sparsity_v : layout.sparsity_k;
  for (int64_t t = 0; t < args.n_pages * layout.page_tokens; ++t) {
    for (int head = 0; head < layout.n_kv_heads; ++head) {
      const cpu::CodeView codes =
          cpu::CodesOf(pages[t / layout.page_tokens], layout, args.value, head);
      const int64_t first_code = t % layout.page_tokens * sparsity;
      const int64_t row = (t * layout.n_kv_heads + head) * layout.head_dim;
      for (int i = 0; i < layout.head_dim; ++i) {
        double sum = 0;
        double absolute = 0;
        for (int j = 0; j < sparsity; ++j) {
          const double term = static_cast<double>(E4m3ToFloat(codes.coefs[first_code + j])) *
                              dictionary.row(codes.atoms[first_code + j])[i];
          sum += term;
          absolute += std::abs(term);
        }
        args.out.as_mutable<float>()[row + i] = static_cast<float>(sum);
        magnitude.as_mutable<float>()[row + i] = static_cast<float>(absolute);
      }
    }
  }
}

}  // namespace lexico::kernels::definition

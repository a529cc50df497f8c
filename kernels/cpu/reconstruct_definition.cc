#include "kernels/cpu/reconstruct_definition.h"

#include "kernels/cpu/code_view.h"
#include "kernels/cpu/dictionary.h"
#include "kernels/cpu/vector_code_definition.h"

namespace lexico::kernels::definition {

void Reconstruct(const ReconstructArgs& args, MutableTensorView magnitude) {
  const cpu::Dictionary* dictionary =
      args.dictionary == nullptr ? nullptr : &cpu::AsCpu(*args.dictionary);
  const PageLayout& layout = args.layout;
  const cpu::PageList pages = {args.pages, args.page_offset};
  for (int64_t t = 0; t < args.n_pages * layout.page_tokens; ++t) {
    for (int head = 0; head < layout.n_kv_heads; ++head) {
      const DecodedVector decoded =
          DecodeVector(layout, args.value, head, static_cast<int>(t % layout.page_tokens),
                       pages[t / layout.page_tokens], dictionary);
      const int64_t row = (t * layout.n_kv_heads + head) * layout.head_dim;
      for (int i = 0; i < layout.head_dim; ++i) {
        args.out.as_mutable<float>()[row + i] = static_cast<float>(decoded.x[i]);
        magnitude.as_mutable<float>()[row + i] = static_cast<float>(decoded.magnitude[i]);
      }
    }
  }
}

}  // namespace lexico::kernels::definition

// A vector at a time: x^ as Reconstruct gives it, its products with the rows of its own atoms in
// double, then the pursuit of support_pursuit.h. Rows come from L2; the products are all there is
// to do: 16 atoms to 8 are some 110 of them, where a search makes 4096 a pick.
#include "kernels/cpu/demote_codes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/api/omp_encode.h"
#include "kernels/api/support_pursuit.h"
#include "kernels/cpu/code_view.h"
#include "kernels/cpu/dictionary.h"
#include "kernels/cpu/openmp.h"
#include "kernels/cpu/reconstruct.h"
#include "proto/base/limits.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/demote_codes.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/codes-inl.h"
#include "kernels/cpu/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lexico::kernels::cpu::HWY_NAMESPACE {

// <a, b> over [stride], a multiple of 16, every product and sum in double.
HWY_INLINE double DoubleDot(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b,
                            size_t stride) {
  const hn::CappedTag<double, 8> d;
  const hn::Rebind<float, decltype(d)> d_float;
  auto sum = hn::Zero(d);
  for (size_t i = 0; i < stride; i += hn::Lanes(d)) {
    sum = hn::MulAdd(hn::PromoteTo(d, hn::LoadU(d_float, a + i)),
                     hn::PromoteTo(d, hn::LoadU(d_float, b + i)), sum);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

// The distinct atoms of token t with a coefficient, and how many.
int SupportOf(PageAtoms<1>& codes, int t, int sparsity, uint16_t* support) {
  codes.Read(t, 1);
  int n = 0;
  for (int j = 0; j < sparsity; ++j) {
    const uint16_t atom = codes.atoms()[j];
    if (codes.scale(t) * codes.numbers()[j] == 0) continue;
    if (std::find(support, support + n, atom) == support + n) support[n++] = atom;
  }
  return n;
}

// Of one vector of a call; where its results go.
struct Demoted {
  uint16_t* atoms;      // [sparsity]
  uint8_t* coefs;       // [sparsity]
  float* coefficients;  // [sparsity], or null
  float* rel_error;
};

// `x` [row_stride] is zero-padded; `array` has SupportMemory::Doubles(n, sparsity) numbers.
void DemoteVector(const Dictionary& dictionary, const float* x, const uint16_t* support, int n,
                  int sparsity, double* array, const Demoted& out) {
  const auto stride = static_cast<size_t>(dictionary.row_stride());
  std::fill_n(out.atoms, sparsity, uint16_t{0});
  std::fill_n(out.coefs, sparsity, uint8_t{0});
  if (out.coefficients != nullptr) std::fill_n(out.coefficients, sparsity, 0.0f);
  const double squares = DoubleDot(x, x, stride);
  *out.rel_error = std::isfinite(squares) ? 0 : std::numeric_limits<float>::quiet_NaN();
  if (!std::isfinite(squares) || squares == 0) return;

  const SupportMemory memory(array, n, sparsity);
  int picks[base::kSparsityMax];
  uint8_t open[base::kSparsityMax];
  for (int j = 0; j < n; ++j) memory.score[j] = DoubleDot(x, dictionary.row(support[j]), stride);
  SupportPursuit<OneLane> pursuit({}, memory, support, n, sparsity, picks, open);
  pursuit.Begin(squares);
  for (int place = pursuit.Next(); place >= 0; place = pursuit.Next()) {
    const float* row = dictionary.row(support[place]);
    for (int j = 0; j < n; ++j) {
      if (pursuit.IsOpen(j)) memory.column[j] = DoubleDot(row, dictionary.row(support[j]), stride);
    }
    pursuit.Take(place);
  }
  pursuit.Solve();

  float negative[base::kSparsityMax];
  for (int k = 0; k < pursuit.n_picks(); ++k) {
    const auto coefficient = static_cast<float>(memory.coefficients[k]);
    out.atoms[k] = support[picks[k]];
    out.coefs[k] = FloatToE4m3(coefficient);
    if (out.coefficients != nullptr) out.coefficients[k] = coefficient;
    negative[k] = -E4m3ToFloat(out.coefs[k]);
  }
  alignas(64) float rest[base::kHeadDimMax];
  CombineRows(dictionary.rows(), stride, out.atoms, negative, pursuit.n_picks(), x, rest);
  *out.rel_error = static_cast<float>(std::sqrt(DoubleDot(rest, rest, stride) / squares));
}

// Tokens of one head of a page; `rows` [page_tokens, n_kv_heads, head_dim] is the page's x^.
void DemoteHead(const DemoteCodesArgs& args, const uint8_t* page, int64_t page_index, int head,
                const float* rows) {
  const PageLayout& layout = args.layout;
  const Dictionary& dictionary = AsCpu(*args.dictionary);
  const VectorCode code = layout.code(args.value);
  PageAtoms<1> codes(CodesOf(page, layout, args.value, head), code, layout.page_tokens);
  std::vector<double> array(SupportMemory::Doubles(code.sparsity, args.sparsity));
  alignas(64) float x[base::kHeadDimMax] = {};
  for (int t = 0; t < layout.page_tokens; ++t) {
    const int64_t i = (page_index * layout.page_tokens + t) * layout.n_kv_heads + head;
    std::copy_n(rows + static_cast<size_t>(t * layout.n_kv_heads + head) * layout.head_dim,
                layout.head_dim, x);
    uint16_t support[base::kSparsityMax];
    const int n = SupportOf(codes, t, code.sparsity, support);
    const int64_t at = i * args.sparsity;
    DemoteVector(dictionary, x, support, n, args.sparsity, array.data(),
                 {.atoms = args.atoms.as_mutable<uint16_t>() + at,
                  .coefs = args.coefs.as_mutable<uint8_t>() + at,
                  .coefficients = args.coefficients.data == nullptr
                                      ? nullptr
                                      : args.coefficients.as_mutable<float>() + at,
                  .rel_error = args.rel_error.as_mutable<float>() + i});
  }
}

}  // namespace lexico::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lexico::kernels::cpu {

HWY_EXPORT(DemoteHead);

void DemoteCodes(const DemoteCodesArgs& args, const Stream& stream) {
  const PageLayout& layout = args.layout;
  const int64_t page_rows = static_cast<int64_t>(layout.page_tokens) * layout.n_kv_heads;
  std::vector<float> rows(args.n_pages * page_rows * layout.head_dim);
  cpu::Reconstruct(
      {.pages = args.pages,
       .n_pages = args.n_pages,
       .page_offset = args.page_offset,
       .layout = layout,
       .dictionary = args.dictionary,
       .value = args.value,
       .out = {rows.data(),
               {args.n_pages * layout.page_tokens, layout.n_kv_heads, layout.head_dim}}},
      stream);
  const PageList pages = {args.pages, args.page_offset};
  const int64_t products =
      args.n_pages * page_rows * layout.head_dim * layout.code(args.value).sparsity * args.sparsity;
#pragma omp parallel for num_threads(UsefulThreads(products, stream.threads())) schedule(dynamic)
  for (int64_t i = 0; i < args.n_pages * layout.n_kv_heads; ++i) {
    const int64_t page = i / layout.n_kv_heads;
    HWY_DYNAMIC_DISPATCH(DemoteHead)
    (args, pages[page], page, static_cast<int>(i % layout.n_kv_heads),
     rows.data() + page * page_rows * layout.head_dim);
  }
}

}  // namespace lexico::kernels::cpu
#endif  // HWY_ONCE

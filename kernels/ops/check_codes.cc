#include "kernels/ops/check_codes.h"

#include "kernels/api/residual.h"
#include "proto/base/check.h"

namespace lexico::kernels {

void CheckCodes(const PageLayout& layout, bool value, const PreparedDictionary* dictionary) {
  LEXICO_CHECK(!layout.is_dense());
  LEXICO_CHECK_GE(layout.page_tokens, 1);
  LEXICO_CHECK_EQ(layout.page_tokens % 2, 0);
  LEXICO_CHECK_GE(layout.n_kv_heads, 1);
  const VectorCode code = layout.code(value);
  LEXICO_CHECK(!code.is_empty());
  LEXICO_CHECK_GE(code.form.residual_bits, 0);
  LEXICO_CHECK_LE(code.form.residual_bits, base::kResidualBitsMax);
  if (code.has_residual()) LEXICO_CHECK(CanRotate(layout.head_dim));
  if (code.sparsity == 0) return;
  LEXICO_CHECK(dictionary != nullptr);
  LEXICO_CHECK_EQ(layout.head_dim, dictionary->head_dim());
  LEXICO_CHECK(code.form.coefficient_bits == 4 || code.form.coefficient_bits == 8);
  if (code.is_packed()) LEXICO_CHECK_LE(dictionary->n_atoms(), base::kPackedAtomsMax);
}

}  // namespace lexico::kernels

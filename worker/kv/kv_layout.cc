#include "worker/kv/kv_layout.h"

#include "proto/base/check.h"

namespace lexico::worker {
namespace {

store::DenseType StoredType(kernels::DType type) {
  // The values are the same by declaration (page.h); anything else is not a cache type.
  LEXICO_CHECK_LE(static_cast<int>(type), static_cast<int>(store::DenseType::kBF16));
  return static_cast<store::DenseType>(type);
}

}  // namespace

int64_t KvLayout::RowsKept(int64_t n_rows) const {
  if (n_rows < window_capacity()) return n_rows;
  return window_tokens + (n_rows - window_tokens) % seal_tokens();
}

store::PageShape KvLayout::StoredPage() const {
  store::PageShape stored;
  stored.kind = profile.is_dense() ? store::PageKind::kDense : store::PageKind::kCodes;
  stored.dense_type = profile.is_dense() ? StoredType(shape.cache_type) : store::DenseType::kF32;
  stored.n_kv_heads = static_cast<uint16_t>(shape.model_kv_heads());
  stored.head_dim = static_cast<uint16_t>(shape.head_dim);
  stored.page_tokens = static_cast<uint16_t>(page.page_tokens);
  stored.n_tokens = stored.page_tokens;
  stored.sparsity_k = static_cast<uint8_t>(page.sparsity_k);
  stored.sparsity_v = static_cast<uint8_t>(page.sparsity_v);
  stored.n_atoms = static_cast<uint32_t>(n_atoms);
  stored.form_k = page.form_k;
  stored.form_v = page.form_v;
  return stored;
}

store::PageShape KvLayout::StoredWindow(int n_tokens) const {
  store::PageShape stored;
  stored.kind = store::PageKind::kWindow;
  stored.dense_type = StoredType(shape.cache_type);
  stored.n_kv_heads = static_cast<uint16_t>(shape.model_kv_heads());
  stored.head_dim = static_cast<uint16_t>(shape.head_dim);
  stored.page_tokens = static_cast<uint16_t>(page.page_tokens);
  stored.n_tokens = static_cast<uint16_t>(n_tokens);
  return stored;
}

KvLayout MakeKvLayout(const KvShape& shape, const base::Profile& profile, int n_atoms) {
  if (profile.has_atoms()) LEXICO_CHECK_GT(n_atoms, 0);
  KvLayout layout;
  layout.shape = shape;
  layout.profile = profile;
  layout.page.n_kv_heads = shape.n_kv_heads;
  layout.page.head_dim = shape.head_dim;
  layout.page.page_tokens = base::kPageTokens;
  layout.page.sparsity_k = profile.k.sparsity;
  layout.page.sparsity_v = profile.v.sparsity;
  layout.page.form_k = profile.k.form;
  layout.page.form_v = profile.v.form;
  layout.page.dense_type = shape.cache_type;
  layout.n_atoms = profile.has_atoms() ? n_atoms : 0;
  return layout;
}

store::ChainScope MakeChainScope(const KvLayout& layout, const KvIdentity& identity,
                                 const std::string& tenant) {
  store::ChainScope scope;
  scope.tenant = tenant;
  scope.model = identity.model;
  if (layout.profile.has_atoms()) scope.dictionary = identity.dictionary;
  scope.tokenizer = identity.tokenizer;
  scope.profile = layout.profile.name;
  scope.page_tokens = static_cast<uint32_t>(layout.page.page_tokens);
  scope.window_tokens = static_cast<uint32_t>(layout.window_tokens);
  scope.seal_tokens = static_cast<uint32_t>(layout.seal_tokens());
  return scope;
}

}  // namespace lexico::worker

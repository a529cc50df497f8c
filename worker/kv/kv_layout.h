// Sizes of what a session keeps, from the model's shape and the profile. docs/layouts.md has every
// buffer on one page.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "cache_store/format/page.h"
#include "cache_store/format/page_key.h"
#include "kernels/api/code_layout.h"
#include "kernels/api/dictionary.h"
#include "kernels/api/tensor.h"
#include "proto/base/limits.h"
#include "proto/base/profile.h"
#include "worker/kv/page_pool.h"

namespace lexico::worker {

enum class KvKind : uint8_t { kKey, kValue };

// The shape of a model's keys and values on one rank. A model that is split over several has the
// same blocks on each, with that rank's KV heads (worker/model/model_shard.h).
struct KvShape {
  int n_layers = 0;
  int n_kv_heads = 0;  // of the rank
  int head_dim = 0;
  // What exact vectors are kept in, and rounded to before any use: BF16 for BF16 models, F16 for
  // F16, F32 otherwise.
  kernels::DType cache_type = kernels::DType::kBF16;

  int n_ranks = 1;
  int n_replicas = 1;  // consecutive ranks that have the same KV heads; divides n_ranks

  bool operator==(const KvShape&) const = default;
  int model_kv_heads() const { return n_kv_heads * (n_ranks / n_replicas); }
  int first_kv_head(int rank) const { return rank / n_replicas * n_kv_heads; }
  int64_t row_dim() const { return static_cast<int64_t>(n_kv_heads) * head_dim; }
  size_t row_bytes() const { return row_dim() * kernels::DTypeBytes(cache_type); }
};

// The prepared dictionaries of one layer; null for a worker that has none.
struct LayerDictionaries {
  std::shared_ptr<const kernels::PreparedDictionary> k;
  std::shared_ptr<const kernels::PreparedDictionary> v;
};

// A session's memory on every rank. Immutable; copied freely.
struct KvLayout {
  KvShape shape;
  base::Profile profile;
  kernels::PageLayout page;
  int n_atoms = 0;  // of the dictionaries; 0 without atoms
  int window_tokens = base::kWindowTokens;

  bool operator==(const KvLayout&) const = default;
  int seal_tokens() const { return page.page_tokens; }
  // Rows of a window block: the sealing happens when the last one is filled.
  int window_capacity() const { return window_tokens + seal_tokens(); }
  // One layer's window: [2, window_capacity, n_kv_heads, head_dim] of the cache type, K then V.
  size_t window_bytes() const {
    return 2 * static_cast<size_t>(window_capacity()) * shape.row_bytes();
  }
  // One layer's page: as it is stored, or a rank's part of that (page_shards.h).
  size_t page_bytes() const { return page.payload_bytes(); }
  // All layers' pages of the same tokens are one block of the pool: layer l at page_offset(l).
  size_t page_block_bytes() const { return page_offset(shape.n_layers); }
  size_t page_offset(int layer) const { return layer * BlockBytes(page_bytes()); }
  // All layers' windows of a session likewise; a window is a whole number of cache lines.
  size_t window_block_bytes() const { return window_offset(shape.n_layers); }
  size_t window_offset(int layer) const { return layer * window_bytes(); }
  // Of the whole model.
  size_t fp16_bytes_per_token() const {
    return static_cast<size_t>(shape.n_layers) * shape.model_kv_heads() * shape.head_dim * 4;
  }
  // Rows that stay in the window of `n_rows` unsealed ones: all while there are fewer than the
  // capacity, otherwise window_tokens .. window_capacity - 1 so that whole pages are sealed.
  int64_t RowsKept(int64_t n_rows) const;

  // The shape of a stored page of codes or dense rows, and of a window of n_tokens rows: those of
  // the whole model.
  store::PageShape StoredPage() const;
  store::PageShape StoredWindow(int n_tokens) const;
};

// REQUIRES: the shape is within limits.h; n_atoms > 0 where the profile has atoms.
KvLayout MakeKvLayout(const KvShape& shape, const base::Profile& profile, int n_atoms);

// What the keys and values of a worker's sessions were computed with.
struct KvIdentity {
  base::Fingerprint model;
  base::Fingerprint dictionary;  // zero without one
  base::Fingerprint tokenizer;
};

// The scope of the page keys of a session with this layout.
store::ChainScope MakeChainScope(const KvLayout& layout, const KvIdentity& identity,
                                 const std::string& tenant);

}  // namespace lexico::worker

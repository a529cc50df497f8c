// Between what is stored, which is of the whole model, and what the ranks of a split one have:
// pages and windows by KV head. The bytes of a head are the same in both, so a session that was
// stored under any number of ranks is restored under any other to the same bits.
//
//   whole page   K: head 0, head 1, ...   V: head 0, head 1, ...       (kernels/api/code_layout.h)
//   of a rank    K: its heads             V: its heads
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "worker/kv/kv_layout.h"
#include "worker/kv/page_coder.h"

namespace lexico::worker {

// Consecutive bytes of a whole page that lie together on a rank.
struct PagePart {
  int rank = 0;
  size_t local = 0;  // offset in the rank's page
  size_t whole = 0;  // offset in the whole page
  size_t bytes = 0;
  bool replica = false;  // an earlier rank has the same
};

// All parts of one layer's page. Of a model that is not split: the page, with what is between it
// and the next one of the block, so that neighbours are one copy.
std::vector<PagePart> PartsOfPage(const KvLayout& layout);

// Rows of a window between [n_rows, heads of the model, head_dim] and [n_rows, heads of the rank,
// head_dim].
void JoinRows(const KvShape& shape, int rank, int64_t n_rows, const uint8_t* local, uint8_t* whole);
void CutRows(const KvShape& shape, int rank, int64_t n_rows, const uint8_t* whole, uint8_t* local);

// The errors of whole pages, means over all heads, from those of every rank's part: [n_ranks][n].
void JoinErrors(std::span<const std::vector<PageError>> ranks, std::span<PageError> whole);

}  // namespace lexico::worker

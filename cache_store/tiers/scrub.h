// A look at every page of a disk tier, in steps.
#pragma once

#include <cstdint>
#include <vector>

#include "cache_store/format/page_key.h"

namespace lexico::store {

// Where a pass goes on; a new one begins at the first page.
struct ScrubCursor {
  uint64_t segment_id = 0;
  uint64_t offset = 0;
};

struct ScrubStep {
  uint64_t n_pages = 0;
  uint64_t bytes = 0;
  std::vector<PageKey> damaged;  // and dropped
  uint64_t n_repaired = 0;       // of them; by TieredStore
  bool pass_ended = false;       // nothing was left; the cursor is at the first page again
};

}  // namespace lexico::store

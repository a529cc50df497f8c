// A level where pages lie. Pages come in verified (server, transfer) and go out as shared bytes.
//
// Thread safety: all methods of all tiers may be called from any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cache_store/format/page_buffer.h"

namespace lexico::store {

struct TierUsage {
  uint64_t bytes = 0;  // of pages that can be read, bookkeeping included
  uint64_t bytes_max = 0;
  uint64_t n_pages = 0;
  uint64_t n_evictions = 0;          // since the start
  uint64_t n_checksum_failures = 0;  // since the start
};

class Tier {
 public:
  virtual ~Tier() = default;
  virtual std::string_view name() const = 0;  // a label: "host", "disk"

  // OK: the tier has all pages, as durably as it can; those it had already are only marked as used.
  // Evicts what it may to make room. ResourceExhausted when that is not enough: the message gives
  // the bytes wanted, the bytes there are and what holds them; no page of the call was added.
  virtual absl::Status Put(std::span<const NamedPage> pages, absl::Time now) = 0;

  // Counts as a use. NotFound; DataLoss when its bytes are damaged (it is dropped and counted).
  virtual absl::StatusOr<PagePtr> Get(const PageKey& key, absl::Time now) = 0;

  // Whether the page is there; counts as a use.
  virtual bool Touch(const PageKey& key, absl::Time now) = 0;
  // Whether a manifest names the page. Ignored when it is not there.
  virtual void SetClaimed(const PageKey& key, bool claimed, absl::Time now) = 0;

  virtual TierUsage usage() const = 0;
};

}  // namespace lexico::store

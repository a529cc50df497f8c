// Names of pages. A page is named by everything its bytes follow from, so that sessions with the
// same beginning find each other's pages and tenants never do. docs/formats/page.md, "The key", is
// the specification.
//
//   PageChain chain = ChainStart(scope);
//   for each page:  chain = ChainExtend(chain, first_token, tokens, segments);
//                   key   = PageKeyOf(chain, layer, PageKind::kCodes, first_token);
//   for a window:   key   = PageKeyOf(ChainExtend(chain, n_sealed_tokens, newest tokens, segments),
//                                     layer, PageKind::kWindow, n_sealed_tokens);
//
// Pure functions; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "proto/base/hash.h"

namespace lexico::store {

using PageKey = base::Fingerprint;

// Values reach page headers and keys: do not change them.
enum class PageKind : uint8_t { kCodes = 0, kDense = 1, kWindow = 2 };

// How a run of tokens was computed. Values reach manifests and keys: do not change them.
enum class SegmentKind : uint8_t {
  kPrefill = 0,  // one exact prefill: tokens attend to exact keys and values of their own segment
  kDecode = 1,   // one token a step, attending to codes and the window
};

// The start of a run of tokens; it ends where the next one starts.
struct Segment {
  uint64_t first_token = 0;  // position in the session
  SegmentKind kind = SegmentKind::kPrefill;

  bool operator==(const Segment&) const = default;
};

// Once in a session's life its pages were demoted (docs/adr/0016-exact-demotion.md): made into
// those of a smaller profile, from their codes alone. Their bytes follow from where they come from
// as well, and those of later pages from which codes their rows attended to.
struct Demotion {
  std::string from;              // the profile before
  uint64_t n_sealed_tokens = 0;  // in pages then, which were demoted; a whole number of pages
  uint64_t n_tokens = 0;         // that had keys and values then, computed over the pages before

  bool operator==(const Demotion&) const = default;
};

// What is left of `demotions` where only the first `n_tokens` keys and values are: later ones are
// computed again, over the pages that are kept.
std::vector<Demotion> DemotionsOf(std::vector<Demotion> demotions, uint64_t n_sealed_tokens,
                                  uint64_t n_tokens);

// What all pages of a session have in common.
struct ChainScope {
  std::string tenant;
  base::Fingerprint model;
  base::Fingerprint dictionary;  // zero for profile `dense`
  base::Fingerprint tokenizer;
  std::string profile;
  std::vector<Demotion> demotions;  // in the order they were made; empty as a rule
  uint32_t page_tokens = 0;
  uint32_t window_tokens = 0;  // how far a token sees exact vectors of earlier segments
  uint32_t seal_tokens = 0;
};

// Stands for a scope and the tokens so far, with how they were computed.
struct PageChain {
  base::Fingerprint state;

  bool operator==(const PageChain&) const = default;
};

PageChain ChainStart(const ChainScope& scope);

// Adds `tokens`, which stand at first_token, first_token + 1, ... `segments` is the session's whole
// list or any part of it that covers these tokens; only starts inside the tokens enter the chain.
// Tokens must be added page by page: adding the same tokens in other pieces gives another chain.
PageChain ChainExtend(const PageChain& chain, uint64_t first_token,
                      std::span<const uint32_t> tokens, std::span<const Segment> segments);

// The page whose last token is the chain's last token and whose first is `first_token`.
PageKey PageKeyOf(const PageChain& chain, uint32_t layer, PageKind kind, uint64_t first_token);

}  // namespace lexico::store

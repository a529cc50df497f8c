#include "cache_store/format/page_key.h"

#include <algorithm>
#include <vector>

#include "proto/base/bytes.h"
#include "proto/base/check.h"

namespace lexico::store {

PageChain ChainStart(const ChainScope& scope) {
  base::FingerprintBuilder builder;
  builder.Add("lexico-chain-1")
      .Add(scope.tenant)
      .Add(scope.model.bytes)
      .Add(scope.dictionary.bytes)
      .Add(scope.tokenizer.bytes)
      .Add(scope.profile)
      .AddInt(scope.page_tokens)
      .AddInt(scope.window_tokens)
      .AddInt(scope.seal_tokens);
  if (!scope.demotions.empty()) builder.Add("demoted").AddInt(scope.demotions.size());
  for (const Demotion& demotion : scope.demotions) {
    builder.Add(demotion.from).AddInt(demotion.n_sealed_tokens).AddInt(demotion.n_tokens);
  }
  return {builder.Finish()};
}

std::vector<Demotion> DemotionsOf(std::vector<Demotion> demotions, uint64_t n_sealed_tokens,
                                  uint64_t n_tokens) {
  for (Demotion& demotion : demotions) {
    demotion.n_sealed_tokens = std::min(demotion.n_sealed_tokens, n_sealed_tokens);
    demotion.n_tokens = std::min(demotion.n_tokens, n_tokens);
  }
  std::erase_if(demotions, [](const Demotion& demotion) { return demotion.n_sealed_tokens == 0; });
  return demotions;
}

PageChain ChainExtend(const PageChain& chain, uint64_t first_token,
                      std::span<const uint32_t> tokens, std::span<const Segment> segments) {
  LEXICO_CHECK_GT(tokens.size(), 0u);
  // Segments are sorted; those that start inside [first_token, first_token + tokens.size()).
  const auto begin = std::lower_bound(
      segments.begin(), segments.end(), first_token,
      [](const Segment& segment, uint64_t position) { return segment.first_token < position; });
  base::ByteWriter marks;
  for (auto it = begin; it != segments.end() && it->first_token < first_token + tokens.size();
       ++it) {
    marks.Write<uint64_t>(it->first_token);
    marks.Write<uint8_t>(static_cast<uint8_t>(it->kind));
  }
  base::FingerprintBuilder builder;
  builder.Add("lexico-extend-1")
      .Add(chain.state.bytes)
      .AddInt(first_token)
      .AddInt(tokens.size())
      .Add(std::span(reinterpret_cast<const uint8_t*>(tokens.data()), tokens.size_bytes()))
      .Add(marks.buffer());
  return {builder.Finish()};
}

PageKey PageKeyOf(const PageChain& chain, uint32_t layer, PageKind kind, uint64_t first_token) {
  base::FingerprintBuilder builder;
  builder.Add("lexico-page-1")
      .Add(chain.state.bytes)
      .AddInt(static_cast<uint64_t>(kind))
      .AddInt(layer)
      .AddInt(first_token);
  return builder.Finish();
}

}  // namespace lexico::store

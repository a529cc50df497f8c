// Eviction: a few tokens stay exact, the others are gone. The kept ones keep their positions.
//
//   snapkv     each KV head keeps the tokens with the largest attention from the newest 32 queries
//              of its group, summed, then pooled by the maximum over 7 neighbours
//   streaming  the first 4 tokens (attention sinks) and the newest
#pragma once

#include <memory>
#include <vector>

#include "tools/eval/rivals/rival.h"

namespace lexico::eval {

inline constexpr int64_t kSnapQueries = 32;    // observation window
inline constexpr int64_t kSnapPool = 7;        // tokens of the pooling
inline constexpr int64_t kStreamingSinks = 4;  // as StreamingLLM recommends

// Tokens that fit `bytes` a vector when n_coded vectors are to be replaced.
int64_t KeptTokens(const RowShape& shape, int64_t n_coded, int bytes);

// For each of context.n_coded tokens: the attention that kSnapQueries newest queries of a KV head's
// group give it, pooled.
std::vector<float> SnapScores(const LayerContext& context, int kv_head);

std::unique_ptr<const Rival> MakeSnapKv(std::string name, int bytes);
std::unique_ptr<const Rival> MakeStreaming(std::string name, int bytes);

}  // namespace lexico::eval

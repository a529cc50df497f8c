// What happens to the delimiters when a word is split at matches of a pattern. "the-final--count"
// split at "-":
//
//   kRemoved             the  final  count
//   kIsolated            the  -  final  -  -  count
//   kMergedWithPrevious  the-  final-  -  count
//   kMergedWithNext      the  -final  -  -count
//   kContiguous          the  -  final  --  count
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "worker/tokenizer/regex.h"

namespace lexico::worker {

enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// By the name in a tokenizer.json ("MergedWithNext"); nullopt for any other.
std::optional<SplitBehavior> SplitBehaviorOf(std::string_view name);

// Turns the parts that cover a word into the parts to keep, in order; `matched` is then of no
// meaning, and empty parts may remain. As in Hugging Face tokenizers, a delimiter merges only if
// the part before it (in the direction of merging) is no delimiter itself.
std::vector<Match> ApplyBehavior(std::vector<Match> parts, SplitBehavior behavior);

}  // namespace lexico::worker

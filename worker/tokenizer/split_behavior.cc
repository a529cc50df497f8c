#include "worker/tokenizer/split_behavior.h"

#include <algorithm>
#include <utility>

#include "proto/base/check.h"

namespace lexico::worker {
namespace {

// Joins neighbours (in the order of `parts`): a delimiter to the part before it.
std::vector<Match> MergeDelimiters(const std::vector<Match>& parts) {
  std::vector<Match> kept;
  bool previous_matched = false;
  for (const Match& part : parts) {
    if (part.matched && !previous_matched && !kept.empty()) {
      kept.back().begin = std::min(kept.back().begin, part.begin);
      kept.back().end = std::max(kept.back().end, part.end);
    } else {
      kept.push_back(part);
    }
    previous_matched = part.matched;
  }
  return kept;
}

std::vector<Match> MergeRuns(const std::vector<Match>& parts) {
  std::vector<Match> kept;
  bool previous_matched = false;
  for (const Match& part : parts) {
    if (part.matched == previous_matched && !kept.empty()) {
      kept.back().end = part.end;
    } else {
      kept.push_back(part);
    }
    previous_matched = part.matched;
  }
  return kept;
}

}  // namespace

std::optional<SplitBehavior> SplitBehaviorOf(std::string_view name) {
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return std::nullopt;
}

std::vector<Match> ApplyBehavior(std::vector<Match> parts, SplitBehavior behavior) {
  switch (behavior) {
    case SplitBehavior::kRemoved:
      std::erase_if(parts, [](const Match& part) { return part.matched; });
      return parts;
    case SplitBehavior::kIsolated:
      return parts;
    case SplitBehavior::kMergedWithPrevious:
      return MergeDelimiters(parts);
    case SplitBehavior::kMergedWithNext: {
      std::ranges::reverse(parts);
      std::vector<Match> kept = MergeDelimiters(parts);
      std::ranges::reverse(kept);
      return kept;
    }
    case SplitBehavior::kContiguous:
      return MergeRuns(parts);
  }
  LEXICO_UNREACHABLE();
}

}  // namespace lexico::worker

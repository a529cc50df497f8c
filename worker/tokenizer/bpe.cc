#include "worker/tokenizer/bpe.h"

#include <algorithm>
#include <queue>

#include "proto/base/status.h"
#include "worker/tokenizer/unicode.h"

namespace lexico::worker {
namespace {

// Up to here a scan of all pairs per merge beats the heap (measured on English: 12 to 40 alike).
constexpr size_t kScanSymbolsMax = 24;

constexpr size_t kCachedWordBytesMax = 64;
constexpr size_t kCachedWordsMax = 1 << 16;

// A candidate of the heap: lowest rank first, leftmost first.
struct Candidate {
  int32_t rank;
  int32_t position;
  int32_t id;
  bool operator<(const Candidate& other) const {
    if (rank != other.rank) return rank > other.rank;
    return position > other.position;
  }
};

}  // namespace

bool WordCache::Append(std::string_view word, std::vector<int32_t>* ids) const {
  if (word.size() > kCachedWordBytesMax) return false;
  const auto it = ranges_.find(word);
  if (it == ranges_.end()) return false;
  ids->insert(ids->end(), ids_.begin() + it->second.first, ids_.begin() + it->second.second);
  return true;
}

void WordCache::Insert(std::string_view word, const int32_t* ids, size_t n_ids) {
  if (word.size() > kCachedWordBytesMax || ranges_.size() >= kCachedWordsMax) return;
  const auto begin = static_cast<uint32_t>(ids_.size());
  ids_.insert(ids_.end(), ids, ids + n_ids);
  ranges_.emplace(word, std::pair(begin, static_cast<uint32_t>(ids_.size())));
}

absl::Status Bpe::EncodeWord(std::string_view word, const std::vector<bool>* forbidden,
                             WordCache* cache, std::vector<int32_t>* ids) const {
  if (cache->Append(word, ids)) return absl::OkStatus();
  const size_t begin = ids->size();
  if (ignore_merges_) {
    const auto it = ids_.find(word);
    if (it != ids_.end() &&
        (forbidden == nullptr || !(*forbidden)[static_cast<size_t>(it->second)])) {
      ids->push_back(it->second);
      cache->Insert(word, ids->data() + begin, 1);
      return absl::OkStatus();
    }
  }
  for (size_t at = 0; at < word.size();) {
    const std::string_view chunk = word.substr(at, ChunkEnd(word, at) - at);
    // With ignore_merges a chunk is coded otherwise than a whole word that looks the same.
    const bool may_cache = !ignore_merges_ || chunk.size() == word.size();
    LEXICO_RETURN_IF_ERROR(EncodeChunk(chunk, forbidden, may_cache ? cache : nullptr, ids));
    at += chunk.size();
  }
  return absl::OkStatus();
}

// The end of the part of `word` that can be coded alone: the word's, unless it is long and has a
// place between two known characters that no merge reaches across.
size_t Bpe::ChunkEnd(std::string_view word, size_t begin) const {
  if (word.size() <= kCachedWordBytesMax || !prefix_.empty() || !suffix_.empty()) {
    return word.size();
  }
  char32_t previous = NextChar(word, &begin);
  for (size_t end = begin; begin < word.size(); begin = end) {
    const char32_t c = NextChar(word, &end);
    if (!char_pairs_.contains(static_cast<uint64_t>(previous) << 32 | c) &&
        char_ids_.contains(previous) && char_ids_.contains(c)) {
      return begin;
    }
    previous = c;
  }
  return word.size();
}

absl::Status Bpe::EncodeChunk(std::string_view word, const std::vector<bool>* forbidden,
                              WordCache* cache, std::vector<int32_t>* ids) const {
  if (cache != nullptr && cache->Append(word, ids)) return absl::OkStatus();
  const size_t begin = ids->size();
  std::vector<int32_t> symbols;
  LEXICO_RETURN_IF_ERROR(FirstIds(word, &symbols));
  if (symbols.size() <= kScanSymbolsMax) {
    MergeByScan(forbidden, &symbols);
  } else {
    MergeByHeap(forbidden, &symbols);
  }
  ids->insert(ids->end(), symbols.begin(), symbols.end());
  if (cache != nullptr) cache->Insert(word, ids->data() + begin, symbols.size());
  return absl::OkStatus();
}

std::optional<int32_t> Bpe::IdOfChar(std::string_view word, size_t begin, size_t end) const {
  const bool has_prefix = begin > 0 && !prefix_.empty();
  const bool has_suffix = end == word.size() && !suffix_.empty();
  if (!has_prefix && !has_suffix) {
    const auto it = char_ids_.find(NextChar(word, &begin));
    return it == char_ids_.end() ? std::nullopt : std::optional(it->second);
  }
  std::string token;
  if (has_prefix) token = prefix_;
  token.append(word, begin, end - begin);
  if (has_suffix) token += suffix_;
  return TokenToId(token);
}

bool Bpe::AppendBytes(std::string_view token, std::vector<int32_t>* ids) const {
  const auto id_of = [this](char byte) { return byte_ids_[static_cast<uint8_t>(byte)]; };
  if (!std::ranges::all_of(token, [&](char byte) { return id_of(byte) >= 0; })) return false;
  for (const char byte : token) ids->push_back(id_of(byte));
  return true;
}

// The ids of the characters before any merge. An unknown token is held back until the next known
// character, so that a run of unknown characters can become one; byte tokens do not end the run.
absl::Status Bpe::FirstIds(std::string_view word, std::vector<int32_t>* ids) const {
  ids->reserve(word.size());
  int32_t unknown = -1;  // -1: none is held back
  const auto release = [&unknown, ids] {
    if (unknown >= 0) ids->push_back(unknown);
    unknown = -1;
  };
  for (size_t begin = 0, end = 0; begin < word.size(); begin = end) {
    end = begin + Utf8Length(word[begin]);
    if (const auto id = IdOfChar(word, begin, end)) {
      release();
      ids->push_back(*id);
      continue;
    }
    if (byte_fallback_) {
      std::string token = begin > 0 ? prefix_ : "";
      token.append(word, begin, end - begin);
      if (end == word.size()) token += suffix_;
      if (AppendBytes(token, ids)) continue;
    }
    if (!unk_token_.has_value()) continue;  // a character without any token leaves no trace
    const auto unk_id = TokenToId(*unk_token_);
    if (!unk_id.has_value()) {
      return absl::InvalidArgumentError(
          "the text has a character without a token, and the tokenizer's unk_token is not in its "
          "vocabulary");
    }
    if (!fuse_unk_) release();
    unknown = *unk_id;
  }
  release();
  return absl::OkStatus();
}

const Bpe::Merge* Bpe::FindMerge(int32_t left, int32_t right,
                                 const std::vector<bool>* forbidden) const {
  const auto it = merges_.find(PairKey(left, right));
  if (it == merges_.end()) return nullptr;
  if (forbidden != nullptr && (*forbidden)[static_cast<size_t>(it->second.id)]) return nullptr;
  return &it->second;
}

void Bpe::MergeByScan(const std::vector<bool>* forbidden, std::vector<int32_t>* ids) const {
  // merges[i] is that of ids[i] and ids[i + 1]; only the neighbours of a merge change.
  const Merge* merges[kScanSymbolsMax] = {};
  size_t n = ids->size();
  for (size_t i = 0; i + 1 < n; ++i) merges[i] = FindMerge((*ids)[i], (*ids)[i + 1], forbidden);
  while (true) {
    size_t best = n;
    for (size_t i = 0; i + 1 < n; ++i) {
      if (merges[i] == nullptr) continue;
      if (best == n || merges[i]->rank < merges[best]->rank) best = i;
    }
    if (best == n) break;
    (*ids)[best] = merges[best]->id;
    ids->erase(ids->begin() + static_cast<ptrdiff_t>(best) + 1);
    std::copy(merges + best + 2, merges + n, merges + best + 1);
    --n;
    if (best > 0) merges[best - 1] = FindMerge((*ids)[best - 1], (*ids)[best], forbidden);
    merges[best] = best + 1 < n ? FindMerge((*ids)[best], (*ids)[best + 1], forbidden) : nullptr;
  }
}

void Bpe::MergeByHeap(const std::vector<bool>* forbidden, std::vector<int32_t>* ids) const {
  const auto n = static_cast<int32_t>(ids->size());
  std::vector<Symbol> symbols;
  symbols.reserve(ids->size());
  for (int32_t i = 0; i < n; ++i) {
    symbols.push_back({(*ids)[static_cast<size_t>(i)], i - 1, i + 1 < n ? i + 1 : -1, true});
  }
  const auto at = [&symbols](int32_t i) -> Symbol& { return symbols[static_cast<size_t>(i)]; };
  std::vector<Candidate> first;
  const auto candidate = [&](int32_t left) -> std::optional<Candidate> {
    const Merge* merge = FindMerge(at(left).id, at(at(left).next).id, forbidden);
    if (merge == nullptr) return std::nullopt;
    return Candidate{merge->rank, left, merge->id};
  };
  for (int32_t i = 0; i + 1 < n; ++i) {
    if (const auto found = candidate(i)) first.push_back(*found);
  }
  std::priority_queue<Candidate> heap(std::less<Candidate>{}, std::move(first));
  while (!heap.empty()) {
    const Candidate top = heap.top();
    heap.pop();
    Symbol& left = at(top.position);
    if (!left.alive || left.next < 0) continue;
    // The pair may have changed since; then its own candidate is elsewhere in the heap.
    const Merge* merge = FindMerge(left.id, at(left.next).id, forbidden);
    if (merge == nullptr || merge->id != top.id) continue;
    Symbol& right = at(left.next);
    right.alive = false;
    left.id = top.id;
    left.next = right.next;
    if (left.next >= 0) at(left.next).previous = top.position;
    if (left.previous >= 0) {
      if (const auto found = candidate(left.previous)) heap.push(*found);
    }
    if (left.next >= 0) {
      if (const auto found = candidate(top.position)) heap.push(*found);
    }
  }
  ids->clear();
  for (const Symbol& symbol : symbols) {
    if (symbol.alive) ids->push_back(symbol.id);
  }
}

std::optional<int32_t> Bpe::TokenToId(std::string_view token) const {
  const auto it = ids_.find(token);
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

bool Bpe::HasId(int32_t id) const {
  return id >= 0 && id < id_bound() && has_id_[static_cast<size_t>(id)];
}

const std::string& Bpe::IdToToken(int32_t id) const {
  static const std::string none;
  return HasId(id) ? tokens_[static_cast<size_t>(id)] : none;
}

}  // namespace lexico::worker

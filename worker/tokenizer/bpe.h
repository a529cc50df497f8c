// Byte-pair encoding: the model of a tokenizer.json. A word becomes its characters, then the pair
// of neighbours with the lowest merge rank becomes one token (the leftmost of equals first), until
// no pair has a rank. (Sennrich et al. 2016; ties and fall-backs as in Hugging Face tokenizers.)
//
// Long words are first cut where no token of the vocabulary reaches across, which changes nothing.
// Short words are merged by scanning, long ones with a heap of candidate pairs: O(n log n) in the
// characters of a word, so that a document without a single space costs no more than any other.
//
// Thread safety: immutable after Read; const methods may be called from any thread, each with its
// own WordCache.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/tokenizer/component.h"
#include "worker/tokenizer/string_map.h"

namespace lexico::worker {

// Ids of words already coded in this call. English repeats itself: nine words in ten are hits.
class WordCache {
 public:
  // Appends the ids of `word` if they are known.
  bool Append(std::string_view word, std::vector<int32_t>* ids) const;
  // Remembers them, unless the cache is full or the word long.
  void Insert(std::string_view word, const int32_t* ids, size_t n_ids);

 private:
  StringMap<std::pair<uint32_t, uint32_t>> ranges_;  // in ids_: begin, end
  std::vector<int32_t> ids_;
};

class Bpe {
 public:
  Bpe() = default;  // no tokens

  // From the component {"type": "BPE", "vocab": ..., "merges": ..., ...}. InvalidArgument: another
  // type, dropout (ids would be random), a merge of or into a token that the vocabulary lacks, ids
  // that are used twice or beyond limits.h.
  static absl::StatusOr<Bpe> Read(const Component& component);

  // Appends the ids of one word. With `forbidden`, no id whose flag is set is produced: the merges
  // that would make it are not taken. InvalidArgument: a character has no token and the unknown
  // token is not in the vocabulary.
  absl::Status EncodeWord(std::string_view word, const std::vector<bool>* forbidden,
                          WordCache* cache, std::vector<int32_t>* ids) const;

  std::optional<int32_t> TokenToId(std::string_view token) const;
  // "" when there is no such token.
  const std::string& IdToToken(int32_t id) const;
  bool HasId(int32_t id) const;
  // Number of tokens, which is not the largest id + 1 when ids are left out.
  int n_tokens() const { return static_cast<int>(ids_.size()); }
  int id_bound() const { return static_cast<int>(tokens_.size()); }  // largest id + 1

 private:
  struct Merge {
    int32_t rank;
    int32_t id;
  };
  struct Symbol {
    int32_t id;
    int32_t previous;  // index, -1: none
    int32_t next;      // index, -1: none
    bool alive;
  };

  // left id << 32 | right id: the key of merges_.
  static uint64_t PairKey(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  absl::Status ReadVocab(const Component& component);
  absl::Status ReadMerges(const Component& component);
  absl::Status AddMerge(const Component& at, std::string_view left, std::string_view right,
                        int32_t rank);
  void AddCharPairs(std::string_view token);
  // As EncodeWord, of a part of a word; a null cache is not used.
  absl::Status EncodeChunk(std::string_view chunk, const std::vector<bool>* forbidden,
                           WordCache* cache, std::vector<int32_t>* ids) const;
  size_t ChunkEnd(std::string_view word, size_t begin) const;
  absl::Status FirstIds(std::string_view word, std::vector<int32_t>* ids) const;
  std::optional<int32_t> IdOfChar(std::string_view word, size_t begin, size_t end) const;
  bool AppendBytes(std::string_view token, std::vector<int32_t>* ids) const;
  const Merge* FindMerge(int32_t left, int32_t right, const std::vector<bool>* forbidden) const;
  void MergeByScan(const std::vector<bool>* forbidden, std::vector<int32_t>* ids) const;
  void MergeByHeap(const std::vector<bool>* forbidden, std::vector<int32_t>* ids) const;

  StringMap<int32_t> ids_;
  std::vector<std::string> tokens_;  // by id; see has_id_
  std::vector<bool> has_id_;
  absl::flat_hash_map<char32_t, int32_t> char_ids_;  // tokens of one character
  absl::flat_hash_map<uint64_t, Merge> merges_;      // by left id << 32 | right id
  // Neighbouring characters inside any merged token, as first << 32 | second. Between two
  // characters that are no such pair no merge can happen: a long word may be cut there.
  absl::flat_hash_set<uint64_t> char_pairs_;
  std::vector<int32_t> byte_ids_;  // of "<0x00>".."<0xFF>", -1: none
  std::optional<std::string> unk_token_;
  std::string prefix_;  // continuing_subword_prefix
  std::string suffix_;  // end_of_word_suffix
  bool fuse_unk_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
};

}  // namespace lexico::worker

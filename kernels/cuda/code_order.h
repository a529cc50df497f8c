// The order in which a GPU's pages hold the codes of a vector. Any order gives the same attention
// but for rounding; this is the one in which attention finds its look-ups soonest.
//
// SparseAttention looks codes up in tables of n_atoms entries in shared memory, the k-th codes of
// neighbouring tokens at once (sparse_attention_scores.cuh, sparse_attention_values.cuh). An entry
// is 16 bytes, 4 query heads, and shared memory serves 8 entries at a time if they lie in 8
// different banks of 16 bytes: if their atoms differ modulo 8. Of 8 random atoms the fullest bank
// has 2.6. So each group of 8 consecutive tokens of one head orders its codes together: place by
// place, a maximum matching of tokens and banks that favours banks with most codes left. With
// random atoms that leaves 1.46 turns a place at sparsity 16, of a bound of 1.35 (the codes of the
// fullest bank). The places with more than one turn are the last ones, in all groups alike, which
// is what counts where a warp's four groups take their turns together: 1.70 instead of 3.29.
//
// Codes of a vector whose atoms are equal modulo 8 keep their order. Pages of another order (coded
// on a CPU, or by an earlier version) are read as well, with more turns.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define LEXICO_HOST_DEVICE __host__ __device__
#else
#define LEXICO_HOST_DEVICE
#endif
#ifdef __CUDA_ARCH__
#define LEXICO_UNROLL(n) LEXICO_PRAGMA(unroll n)
#define LEXICO_PRAGMA(text) _Pragma(#text)
#else
#define LEXICO_UNROLL(n)
#endif

namespace lexico::kernels::cuda {

inline constexpr int kOrderTokens = 8;  // that are ordered together
inline constexpr int kBanks = 8;

LEXICO_HOST_DEVICE inline int BankOf(uint16_t atom) { return atom % kBanks; }

// The codes of one token: byte b counts those of bank b. At most 255 of each.
using BankCounts = uint64_t;
LEXICO_HOST_DEVICE inline BankCounts CountOf(uint16_t atom) {
  return BankCounts{1} << (8 * BankOf(atom));
}

// A bank for each token: nibble t is token t's.
using TokenBanks = uint32_t;
LEXICO_HOST_DEVICE inline int BankOfToken(TokenBanks banks, int token) {
  return static_cast<int>(banks >> (4 * token) & 15);
}

// Says to which bank each token of a group turns at each place. Integers in registers only, about
// 300 instructions a place.
class BankSchedule {
 public:
  // Tokens without codes, such as those past the last, have counts of 0.
  LEXICO_HOST_DEVICE explicit BankSchedule(const BankCounts (&counts)[kOrderTokens]) {
    LEXICO_UNROLL(8)
    for (int t = 0; t < kOrderTokens; ++t) {
      left_[t] = counts[t];
      even_ += counts[t] & kEvenBytes;
      odd_ += counts[t] >> 8 & kEvenBytes;
      LEXICO_UNROLL(8)
      for (int bank = 0; bank < kBanks; ++bank) {
        if ((counts[t] >> (8 * bank) & 0xff) != 0) open_ |= uint64_t{1} << (8 * bank + t);
      }
    }
  }

  // The next place, for tokens below n_tokens. REQUIRES: each has codes left.
  LEXICO_HOST_DEVICE TokenBanks Next(int n_tokens) {
    banks_ = owners_ = ~0u;
    free_ = (1u << n_tokens) - 1;
    uint32_t order = FullestFirst();
    LEXICO_UNROLL(1)
    for (int i = 0; i < kBanks; ++i, order >>= 4) Match(order & 15);
    uint32_t others = free_;
    while (others != 0) Share(TakeLowest(others));
    LEXICO_UNROLL(8)
    for (int t = 0; t < kOrderTokens; ++t) {
      if (t >= n_tokens) break;
      const int bank = BankOfToken(banks_, t);
      left_[t] -= BankCounts{1} << (8 * bank);
      (bank % 2 == 0 ? even_ : odd_) -= uint64_t{1} << (16 * (bank / 2));
      if ((left_[t] >> (8 * bank) & 0xff) == 0) open_ &= ~(uint64_t{1} << (8 * bank + t));
    }
    return banks_;
  }

 private:
  static constexpr uint32_t kNone = 15;  // of a nibble
  static constexpr uint64_t kEvenBytes = 0x00ff00ff00ff00ff;

  LEXICO_HOST_DEVICE static void SetNibble(uint32_t& word, int i, int value) {
    word = (word & ~(15u << (4 * i))) | static_cast<uint32_t>(value) << (4 * i);
  }
  LEXICO_HOST_DEVICE static int TakeLowest(uint32_t& bits) {
#ifdef __CUDA_ARCH__
    const int i = __ffs(static_cast<int>(bits)) - 1;
#else
    const int i = __builtin_ctz(bits);
#endif
    bits &= bits - 1;
    return i;
  }
  LEXICO_HOST_DEVICE uint32_t Degree(int bank) const {
    return (bank % 2 == 0 ? even_ : odd_) >> (16 * (bank / 2)) & 0xffff;
  }
  // Bit t: token t has codes of the bank left.
  LEXICO_HOST_DEVICE uint32_t Open(int bank) const { return open_ >> (8 * bank) & 0xff; }

  // Nibble i: the bank with the i-th most codes left.
  LEXICO_HOST_DEVICE uint32_t FullestFirst() const {
    int rank[kBanks] = {};
    LEXICO_UNROLL(8)
    for (int a = 0; a < kBanks; ++a) {
      LEXICO_UNROLL(8)
      for (int b = a + 1; b < kBanks; ++b) {
        const bool first = Degree(a) >= Degree(b);
        rank[a] += first ? 0 : 1;
        rank[b] += first ? 1 : 0;
      }
    }
    uint32_t order = 0;
    LEXICO_UNROLL(8)
    for (int bank = 0; bank < kBanks; ++bank) {
      order |= static_cast<uint32_t>(bank) << (4 * rank[bank]);
    }
    return order;
  }

  // Gives `bank` a token of its own if that can be done, by moving others where needed: an
  // augmenting path, breadth first.
  LEXICO_HOST_DEVICE void Match(int bank) {
    uint32_t from = 0;  // nibble t: the bank by which token t was reached
    uint32_t reached = 0;
    uint32_t banks = 1u << bank;  // to be looked at
    while (banks != 0) {
      const int next = TakeLowest(banks);
      uint32_t fresh = Open(next) & ~reached;
      reached |= fresh;
      uint32_t end = fresh & free_;
      if (end != 0) return Augment(next, TakeLowest(end), from);
      while (fresh != 0) {
        const int token = TakeLowest(fresh);
        SetNibble(from, token, next);
        banks |= 1u << BankOfToken(banks_, token);
      }
    }
  }
  // `token`, which is free, goes to `bank`; the token there to the bank that reached it; and so on.
  LEXICO_HOST_DEVICE void Augment(int bank, int token, uint32_t from) {
    free_ &= ~(1u << token);
    while (true) {
      const uint32_t before = owners_ >> (4 * bank) & 15;
      SetNibble(owners_, bank, token);
      SetNibble(banks_, token, bank);
      if (before == kNone) return;
      token = static_cast<int>(before);
      bank = BankOfToken(from, token);
    }
  }

  // A token without a bank of its own: where fewest are, then where most codes are left.
  LEXICO_HOST_DEVICE void Share(int token) {
    uint32_t best = 0;
    for (int bank = 0; bank < kBanks; ++bank) {
      if ((Open(bank) >> token & 1u) == 0) continue;
      uint32_t alone = kOrderTokens;
      for (int t = 0; t < kOrderTokens; ++t) alone -= BankOfToken(banks_, t) == bank ? 1 : 0;
      const uint32_t worth = (alone << 16 | Degree(bank)) << 3 | static_cast<uint32_t>(bank);
      if (worth > best) best = worth;
    }
    SetNibble(banks_, token, static_cast<int>(best & 7));
  }

  BankCounts left_[kOrderTokens];  // codes that have no place
  uint64_t even_ = 0;              // 16 bits a bank 0, 2, 4, 6: the codes of all tokens together
  uint64_t odd_ = 0;               // the same of banks 1, 3, 5, 7
  uint64_t open_ = 0;              // bit 8 b + t: token t has codes of bank b left
  // Of the place at hand.
  TokenBanks banks_ = 0;
  uint32_t owners_ = 0;  // nibble b: the token that has bank b for its own
  uint32_t free_ = 0;    // bit t: token t has no bank
};

// Where the i-th code of a vector goes: the vector is token `token` of a group whose schedule is
// banks [sparsity].
LEXICO_HOST_DEVICE inline int PlaceOfCode(const TokenBanks* banks, int token, const uint16_t* atoms,
                                          int sparsity, int i) {
  const int bank = BankOf(atoms[i]);
  int before = 0;
  for (int k = 0; k < i; ++k) before += BankOf(atoms[k]) == bank ? 1 : 0;
  int place = 0;
  for (; place < sparsity; ++place) {
    if (BankOfToken(banks[place], token) == bank && before-- == 0) break;
  }
  return place;
}

}  // namespace lexico::kernels::cuda

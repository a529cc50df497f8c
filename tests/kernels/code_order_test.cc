#include "kernels/cuda/code_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace lexico::kernels::cuda {
namespace {

using Group = std::vector<std::vector<uint16_t>>;  // atoms [n_tokens][sparsity]

std::vector<TokenBanks> BanksOf(const Group& group) {
  BankCounts counts[kOrderTokens] = {};
  for (size_t t = 0; t < group.size(); ++t) {
    for (const uint16_t atom : group[t]) counts[t] += CountOf(atom);
  }
  BankSchedule schedule(counts);
  std::vector<TokenBanks> banks(group[0].size());
  for (TokenBanks& place : banks) place = schedule.Next(static_cast<int>(group.size()));
  return banks;
}

// The group as a page holds it. Expects that every code has a place of its own, and that codes of
// one bank keep their order.
Group Ordered(const Group& group) {
  const std::vector<TokenBanks> banks = BanksOf(group);
  Group ordered = group;
  for (size_t t = 0; t < group.size(); ++t) {
    const int sparsity = static_cast<int>(group[t].size());
    std::vector<int> taken(sparsity);
    std::vector<int> last(kBanks, -1);
    for (int i = 0; i < sparsity; ++i) {
      const int place =
          PlaceOfCode(banks.data(), static_cast<int>(t), group[t].data(), sparsity, i);
      if (place < 0 || place >= sparsity) {
        ADD_FAILURE() << "place " << place << " of " << sparsity;
        continue;
      }
      EXPECT_EQ(taken[place]++, 0);
      EXPECT_GT(place, last[BankOf(group[t][i])]);
      last[BankOf(group[t][i])] = place;
      ordered[t][place] = group[t][i];
    }
  }
  return ordered;
}

// How often shared memory has to be asked for the codes of a group: the fullest bank of each place.
int Turns(const Group& group) {
  int turns = 0;
  for (size_t place = 0; place < group[0].size(); ++place) {
    std::vector<int> load(kBanks);
    for (const auto& token : group) ++load[BankOf(token[place])];
    turns += *std::max_element(load.begin(), load.end());
  }
  return turns;
}

Group RandomGroup(int n_tokens, int sparsity, int n_atoms, std::mt19937& random) {
  Group group(n_tokens, std::vector<uint16_t>(sparsity));
  for (auto& token : group) {
    for (uint16_t& atom : token) atom = static_cast<uint16_t>(random() % n_atoms);
  }
  return group;
}

TEST(CodeOrderTest, RandomCodesTakeFewTurns) {
  std::mt19937 random(1);
  constexpr int kGroups = 300;
  for (const auto& [sparsity, bound] :
       {std::pair(4, 1.95), {8, 1.7}, {16, 1.5}, {24, 1.42}, {64, 1.27}}) {
    int before = 0;
    int after = 0;
    for (int i = 0; i < kGroups; ++i) {
      const Group group = RandomGroup(kOrderTokens, sparsity, 4096, random);
      before += Turns(group);
      after += Turns(Ordered(group));
    }
    EXPECT_GT(before, 2.5 * kGroups * sparsity);
    EXPECT_LT(after, bound * kGroups * sparsity) << sparsity;
  }
}

// Token t begins with bank t and goes round: an order without a shared turn exists, and is found
// from any other.
TEST(CodeOrderTest, FindsAnOrderWithoutSharedTurns) {
  std::mt19937 random(2);
  for (int n_tokens = 1; n_tokens <= kOrderTokens; ++n_tokens) {
    Group group(n_tokens);
    for (int t = 0; t < n_tokens; ++t) {
      for (int i = 0; i < 16; ++i) group[t].push_back(static_cast<uint16_t>(8 * i + (t + i) % 8));
      std::shuffle(group[t].begin(), group[t].end(), random);
    }
    EXPECT_EQ(Turns(Ordered(group)), 16);
  }
}

TEST(CodeOrderTest, NoCodeIsLost) {
  std::mt19937 random(3);
  for (const int n_tokens : {1, 3, kOrderTokens}) {
    for (const int sparsity : {1, 2, 7, 64}) {
      for (const int n_atoms : {1, 2, 9, 65536}) {
        const Group group = RandomGroup(n_tokens, sparsity, n_atoms, random);
        const Group ordered = Ordered(group);
        for (int t = 0; t < n_tokens; ++t) {
          EXPECT_TRUE(std::is_permutation(group[t].begin(), group[t].end(), ordered[t].begin()));
        }
      }
    }
  }
}

// All codes in one bank: nothing can be spread, the order stays.
TEST(CodeOrderTest, OneBankKeepsTheOrder) {
  Group group(kOrderTokens);
  for (int t = 0; t < kOrderTokens; ++t) {
    for (int i = 0; i < 16; ++i) group[t].push_back(static_cast<uint16_t>(8 * (16 * t + i) + 5));
  }
  EXPECT_EQ(Ordered(group), group);
}

}  // namespace
}  // namespace lexico::kernels::cuda

// A model split over ranks gives the logits of the whole one, on every rank the same bits.
#include "worker/model/model_shard.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "kernels/api/matmul.h"
#include "kernels/api/rank_team.h"
#include "tests/support/status_matchers.h"
#include "worker/model/exact_decoder.h"

namespace lexico::worker {
namespace {

using absl::StatusCode;
using kernels::Stream;
using tests::IsOk;
using tests::StatusIs;

using Ranks = std::vector<std::shared_ptr<const Transformer>>;

// A model of tests/golden/model.
std::string Folder(const std::string& name) { return "tests/golden/model/" + name; }

ModelConfig Config(int n_heads, int n_kv_heads, int ffn_dim, int vocab_size) {
  ModelConfig config;
  config.n_heads = n_heads;
  config.n_kv_heads = n_kv_heads;
  config.head_dim = 8;
  config.ffn_dim = ffn_dim;
  config.vocab_size = vocab_size;
  return config;
}

// Logits [n, vocab_size] of every rank: half of the ids at once, the others one by one.
std::vector<std::vector<float>> LogitsOfRanks(const Ranks& ranks, std::span<const int32_t> ids) {
  std::vector<std::vector<float>> all(ranks.size());
  kernels::RankTeam(static_cast<int>(ranks.size())).Run([&](int rank) {
    ExactDecoder decoder(*ranks[rank], Stream::Cpu(1));
    const auto half = static_cast<int64_t>(ids.size() / 2);
    const auto append = [&](std::span<const int32_t> some) {
      const auto logits = decoder.Append(some, std::ssize(some));
      ASSERT_THAT(logits, IsOk());
      all[rank].insert(all[rank].end(), logits->begin(), logits->end());
    };
    append(ids.first(half));
    for (size_t i = half; i < ids.size(); ++i) append(ids.subspan(i, 1));
  });
  return all;
}

void ExpectSplitLikeWhole(const std::string& name, int size) {
  const auto whole = Transformer::LoadRanks(Folder(name), std::vector(1, Stream::Cpu(1)));
  const auto ranks = Transformer::LoadRanks(Folder(name), std::vector(size, Stream::Cpu(1)));
  ASSERT_THAT(whole, IsOk());
  ASSERT_THAT(ranks, IsOk());
  ASSERT_EQ(ranks->size(), static_cast<size_t>(size));
  std::vector<int32_t> ids(20);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 7 % 48);
  const std::vector<float> expected = LogitsOfRanks(*whole, ids)[0];
  const auto split = LogitsOfRanks(*ranks, ids);
  const float largest =
      std::abs(*std::max_element(expected.begin(), expected.end(),
                                 [](float a, float b) { return std::abs(a) < std::abs(b); }));
  // A matrix unit of BF16 rounds activations, whose last bits a split sum changes.
  const bool rounds = std::strstr(kernels::MatMulUnit(Stream::Cpu(1)), "BF16") != nullptr;
  const float tolerance = largest * (rounds ? 1e-2f : 1e-5f);
  ASSERT_EQ(split[0].size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(split[0][i], expected[i], tolerance) << i;
  }
  for (int rank = 0; rank < size; ++rank) {
    EXPECT_EQ(0, std::memcmp(split[rank].data(), split[0].data(), expected.size() * 4)) << rank;
    EXPECT_EQ((*ranks)[rank]->fingerprint(), (*whole)[0]->fingerprint());
    EXPECT_EQ((*ranks)[rank]->config().n_heads, (*whole)[0]->config().n_heads);
    EXPECT_EQ((*ranks)[rank]->local_config().n_heads * size, (*whole)[0]->config().n_heads);
    EXPECT_LT((*ranks)[rank]->weight_bytes(), (*whole)[0]->weight_bytes());
  }
}

struct SplitCase {
  const char* model;
  int size;
};
class SplitModelTest : public testing::TestWithParam<SplitCase> {};

TEST_P(SplitModelTest, LogitsAreThoseOfTheWholeModel) {
  ExpectSplitLikeWhole(GetParam().model, GetParam().size);
}

INSTANTIATE_TEST_SUITE_P(
    All, SplitModelTest,
    testing::Values(SplitCase{"llama_gqa_hd8_f32", 2},
                    SplitCase{"llama_gqa_hd8_f32", 4},  // two ranks for every KV head
                    SplitCase{"llama_mqa_hd16_bf16_llama3_tied", 2},
                    SplitCase{"llama_mqa_hd16_bf16_llama3_tied", 4},
                    SplitCase{"llama_mha_hd64_f16_linear", 2}, SplitCase{"llama_sharded_f32", 2},
                    SplitCase{"mistral_bf16", 2}, SplitCase{"qwen2_bias_f32_tied", 2}),
    [](const auto& test) { return fmt::format("{}_{}", test.param.model, test.param.size); });

TEST(ModelShardTest, EveryHeadColumnAndRowIsSomewhere) {
  const ModelConfig config = Config(8, 4, 24, 50);
  for (const int size : {1, 2, 4, 8}) {
    int64_t heads = 0, columns = 0, rows = 0;
    for (int rank = 0; rank < size; ++rank) {
      const auto shard = ShardOfRank(config, rank, size);
      ASSERT_THAT(shard, IsOk());
      EXPECT_EQ(shard->heads.begin, heads);
      heads += shard->heads.count;
      columns += shard->ffn.count;
      rows += shard->vocab.count;
      EXPECT_EQ(shard->config.n_heads, shard->heads.count);
      EXPECT_EQ(shard->config.n_kv_heads, shard->kv_heads.count);
      // Each query head has its KV head on the same rank.
      for (int64_t head = shard->heads.begin; head < shard->heads.begin + shard->heads.count;
           ++head) {
        const int64_t kv_head = head / config.group_size();
        EXPECT_EQ(shard->kv_heads.begin + (head - shard->heads.begin) / shard->config.group_size(),
                  kv_head);
      }
    }
    EXPECT_EQ(heads, 8);
    EXPECT_EQ(columns, 24);
    EXPECT_EQ(rows, 50);
  }
}

TEST(ModelShardTest, WhatCannotBeSplitIsRefusedWithWhatCan) {
  EXPECT_THAT(ShardOfRank(Config(6, 2, 24, 50), 0, 4),
              StatusIs(StatusCode::kInvalidArgument,
                       "over 4 devices: its 6 query heads are no multiple of 4; possible are 1, 2, "
                       "6"));
  EXPECT_THAT(ShardOfRank(Config(12, 3, 24, 50), 0, 2),
              StatusIs(StatusCode::kInvalidArgument,
                       "its 3 KV heads are neither a multiple nor a divisor of 2"));
  EXPECT_THAT(ShardOfRank(Config(4, 2, 6, 50), 0, 4),
              StatusIs(StatusCode::kInvalidArgument, "its MLP's 6 columns are no multiple of 4"));
  EXPECT_THAT(ShardOfRank(Config(4, 2, 24, 5), 0, 4),
              StatusIs(StatusCode::kInvalidArgument, "its vocabulary of 5 is too small"));
  EXPECT_THAT(Transformer::LoadRanks(Folder("llama_sharded_f32"), std::vector(4, Stream::Cpu(1))),
              StatusIs(StatusCode::kInvalidArgument, "its 2 query heads are no multiple of 4"));
}

}  // namespace
}  // namespace lexico::worker

// Pages, windows and errors of ranks, and of the whole model.
#include <gtest/gtest.h>

#include <numeric>

#include "worker/kv/page_shards.h"

namespace lexico::worker {
namespace {

constexpr int kModelHeads = 4;

// Over 1, 2 and 4 ranks a part of the heads each, over 8 every head on two.
KvLayout Layout(const std::string& profile, int n_ranks) {
  const KvShape shape{.n_layers = 2,
                      .n_kv_heads = std::max(1, kModelHeads / n_ranks),
                      .head_dim = 16,
                      .n_ranks = n_ranks,
                      .n_replicas = std::max(1, n_ranks / kModelHeads)};
  return MakeKvLayout(shape, *base::ParseProfile(profile), 64);
}

TEST(PageShardsTest, PartsAreTheWholePageOnceAndEveryRanksPageOnce) {
  for (const char* profile : {"dense", "paper-s4"}) {
    for (const int n_ranks : {2, 4, 8}) {
      const KvLayout layout = Layout(profile, n_ranks);
      EXPECT_EQ(layout.shape.model_kv_heads(), kModelHeads);
      std::vector<int> whole(layout.StoredPage().payload_bytes());
      std::vector<std::vector<int>> local(n_ranks, std::vector<int>(layout.page_bytes()));
      for (const PagePart& part : PartsOfPage(layout)) {
        for (size_t i = 0; i < part.bytes; ++i) {
          whole.at(part.whole + i) += !part.replica;
          ++local.at(part.rank).at(part.local + i);
        }
      }
      EXPECT_EQ(whole, std::vector<int>(whole.size(), 1)) << profile << " " << n_ranks;
      for (const auto& page : local) EXPECT_EQ(page, std::vector<int>(page.size(), 1));
    }
    // Alone: one copy, up to the next page of the block.
    const KvLayout alone = Layout(profile, 1);
    ASSERT_EQ(PartsOfPage(alone).size(), 1u);
    EXPECT_EQ(PartsOfPage(alone)[0].bytes, alone.page_offset(1));
  }
}

// The bytes of head h of the whole page are those of the rank that has it.
TEST(PageShardsTest, AHeadKeepsItsBytes) {
  const KvLayout layout = Layout("paper-s4", 2);
  const KvLayout model = Layout("paper-s4", 1);
  const std::vector<PagePart> parts = PartsOfPage(layout);
  for (int head = 0; head < kModelHeads; ++head) {
    for (const bool value : {false, true}) {
      const size_t at = model.page.head_offset(value, head);
      const PagePart& part = *std::ranges::find_if(parts, [&](const PagePart& candidate) {
        return candidate.whole <= at && at < candidate.whole + candidate.bytes;
      });
      EXPECT_EQ(part.rank, head / 2);
      EXPECT_EQ(part.local + at - part.whole, layout.page.head_offset(value, head % 2));
    }
  }
}

TEST(PageShardsTest, RowsAreCutAndJoined) {
  for (const int n_ranks : {1, 2, 4, 8}) {
    const KvShape shape = Layout("dense", n_ranks).shape;
    constexpr int64_t kRows = 5;
    std::vector<uint8_t> whole(kRows * shape.row_bytes() / shape.n_kv_heads * kModelHeads);
    std::iota(whole.begin(), whole.end(), uint8_t{3});
    std::vector<uint8_t> joined(whole.size());
    for (int rank = 0; rank < n_ranks; ++rank) {
      std::vector<uint8_t> local(kRows * shape.row_bytes());
      CutRows(shape, rank, kRows, whole.data(), local.data());
      // The first row begins with the rank's first head.
      EXPECT_EQ(local[0], whole[shape.first_kv_head(rank) * 32]);
      JoinRows(shape, rank, kRows, local.data(), joined.data());
    }
    EXPECT_EQ(joined, whole) << n_ranks;
  }
}

TEST(PageShardsTest, ErrorsAreMeansOverAllHeads) {
  std::vector<PageError> whole(2);
  JoinErrors(std::vector<std::vector<PageError>>{{{0.1f, 0.2f}, {0, 0}}, {{0.3f, 0.4f}, {1, 2}}},
             whole);
  EXPECT_FLOAT_EQ(whole[0].k, 0.2f);
  EXPECT_FLOAT_EQ(whole[0].v, 0.3f);
  EXPECT_FLOAT_EQ(whole[1].k, 0.5f);
  EXPECT_FLOAT_EQ(whole[1].v, 1.0f);
}

}  // namespace
}  // namespace lexico::worker

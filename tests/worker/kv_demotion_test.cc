// Demotions of sessions: their pages, names, memory, and what comes back from a store.
#include <cmath>
#include <cstring>

#include "tests/support/status_matchers.h"
#include "tests/worker/carry_pages.h"
#include "tests/worker/kv_fixture.h"
#include "worker/kv/demotion.h"
#include "worker/kv/snapshot.h"

namespace lexico::worker {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;

class KvDemotionTest : public KvTest {
 protected:
  absl::StatusOr<std::unique_ptr<Demotion>> Begin(std::unique_ptr<SessionKv>* kv,
                                                  const KvLayout& layout) {
    return Demotion::Begin(pool_.get(), coders_, &team_, layout, kv);
  }
  std::unique_ptr<SessionKv> Demote(std::unique_ptr<SessionKv> kv, const std::string& profile,
                                    int64_t slice = 1000) {
    auto demotion = Begin(&kv, Layout(profile));
    EXPECT_THAT(demotion, IsOk());
    while (!(*demotion)->done()) (*demotion)->RunSlice(slice);
    return (*demotion)->Finish();
  }
  // The same session each time.
  std::unique_ptr<SessionKv> Decoded(const std::string& profile, int n_tokens) {
    random_.seed(5);
    std::unique_ptr<SessionKv> kv = Open(Layout(profile));
    Decode(*kv, n_tokens);
    return kv;
  }
  static void ExpectSamePages(const SessionKv& a, const SessionKv& b) {
    ASSERT_EQ(a.n_pages(), b.n_pages());
    ASSERT_EQ(a.layout().page_bytes(), b.layout().page_bytes());
    for (int64_t page = 0; page < a.n_pages(); ++page) {
      for (int layer = 0; layer < kLayers; ++layer) {
        EXPECT_EQ(0, std::memcmp(a.page_blocks()[page] + a.layout().page_offset(layer),
                                 b.page_blocks()[page] + b.layout().page_offset(layer),
                                 a.layout().page_bytes()))
            << "page " << page << " layer " << layer;
      }
    }
  }
  SessionSnapshot Export(const SessionKv& kv) {
    SessionSnapshot snapshot = SessionExport(pool_.get(), kv, true).Finish();
    snapshot.manifest.session_id = "s";
    return snapshot;
  }
  absl::StatusOr<SessionImport::Result> Import(
      const SessionSnapshot& snapshot,
      const std::function<bool(int64_t)>& is_lost = [](int64_t) { return false; }) {
    const KvLayout layout = Layout(snapshot.manifest.profile);
    auto import = SessionImport::Begin(pool_.get(), layout, Identity(), snapshot.manifest);
    if (!import.ok()) return import.status();
    const absl::Status carried = Carry(snapshot, **import, is_lost);
    if (!carried.ok()) return carried;
    return (*import)->Finish();
  }

  const std::vector<CoderOfRank> coders_ = {{.dictionaries = dictionaries_,
                                             .stream = &stream_,
                                             .beside = &stream_,
                                             .scratch = &scratch_}};
};

constexpr int kPages = 20;  // of rows

struct Pair {
  const char* from;
  const char* to;
};
constexpr Pair kPairs[] = {{"paper-s8", "paper-s4"}, {"kv8", "kv4"},
                           {"kv8u", "kv4u"},         {"kv4r2", "kv2r1"},
                           {"kv4r2", "kv4r1"},       {"k4f8r1-v8", "k4f8-v3"},
                           {"kv0r3", "kv0r2"},       {"k2r2u-v4r1", "k0r2u-v4r1"}};

TEST_F(KvDemotionTest, PagesAreThoseOfTheSmallerProfileAndTheErrorIsNearIts) {
  for (const auto& [from, to] : kPairs) {
    SCOPED_TRACE(std::string(from) + " to " + to);
    auto demoted = Demote(Decoded(from, 300), to);
    const auto direct = Decoded(to, 300);
    EXPECT_EQ(demoted->layout(), direct->layout());
    EXPECT_EQ(demoted->n_tokens(), direct->n_tokens());
    EXPECT_EQ(demoted->n_pages(), direct->n_pages());
    EXPECT_EQ(demoted->window_rows(), direct->window_rows());
    EXPECT_EQ(demoted->memory().code_bytes,
              demoted->n_pages() * direct->layout().page_block_bytes());
    // An estimate; of residuals, by numbers that are rounded twice.
    const double tolerance = direct->layout().page.form_k.residual_bits == 0 ? 0.1 : 0.2;
    EXPECT_NEAR(demoted->mean_error().k, direct->mean_error().k,
                direct->mean_error().k * tolerance);
    EXPECT_NEAR(demoted->mean_error().v, direct->mean_error().v,
                direct->mean_error().v * tolerance);
  }
}

// What decides about answers: the vectors that attention sees.
TEST_F(KvDemotionTest, VectorsAreAsNearToTheRowsAsThoseOfTheSmallerProfile) {
  random_.seed(9);
  const int64_t n_rows = kPages * 32;
  const std::vector<float> rows = RandomRows(n_rows);
  const auto error_of = [&](const KvLayout& layout, std::span<uint8_t* const> blocks) {
    std::vector<float> given(rows.size());
    const std::vector<const uint8_t*> pages(blocks.begin(), blocks.end());
    DecodePages(layout, dictionaries_[0], false, 0, pages, given.data(), stream_, scratch_);
    double wrong = 0;
    double square = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      wrong += (given[i] - rows[i]) * (given[i] - rows[i]);
      square += rows[i] * rows[i];
    }
    return std::sqrt(wrong / square);
  };
  for (const auto& [from, to] : kPairs) {
    SCOPED_TRACE(std::string(from) + " to " + to);
    const KvLayout before = Layout(from);
    const KvLayout after = Layout(to);
    std::vector<std::vector<uint8_t>> memory(2 * kPages,
                                             std::vector<uint8_t>(before.page_block_bytes()));
    std::vector<uint8_t*> a;
    std::vector<uint8_t*> b;
    for (int i = 0; i < kPages; ++i) {
      a.push_back(memory[i].data());
      b.push_back(memory[kPages + i].data());
    }
    std::vector<PageError> errors(kPages);
    ASSERT_THAT(EncodePages(before, dictionaries_[0], rows.data(), rows.data(), 0, a, errors,
                            stream_, scratch_),
                IsOk());
    const std::vector<const uint8_t*> sources(a.begin(), a.end());
    DemotePages(before, after, dictionaries_[0], 0, sources, b, errors, stream_, scratch_);
    const double demoted = error_of(after, b);
    ASSERT_THAT(EncodePages(after, dictionaries_[0], rows.data(), rows.data(), 0, a, errors,
                            stream_, scratch_),
                IsOk());
    const double direct = error_of(after, a);
    EXPECT_LT(demoted, direct * (after.page.form_k.residual_bits == 0 ? 1.03 : 1.25));
  }
}

TEST_F(KvDemotionTest, SlicesDoNotMatterAndLogAndWindowStay) {
  auto whole = Demote(Decoded("paper-s8", 300), "paper-s3");
  auto sliced = Demote(Decoded("paper-s8", 300), "paper-s3", 1);
  const auto before = Decoded("paper-s8", 300);
  ExpectSamePages(*whole, *sliced);
  EXPECT_TRUE(std::ranges::equal(whole->log(), before->log()));
  EXPECT_TRUE(std::ranges::equal(whole->segments(), before->segments()));
  for (int layer = 0; layer < kLayers; ++layer) {
    const size_t bytes = before->window_rows() * before->layout().shape.row_bytes();
    EXPECT_EQ(0, std::memcmp(whole->window(layer, 1).k, before->window(layer, 1).k, bytes));
    EXPECT_EQ(0, std::memcmp(whole->window(layer, 1).v, before->window(layer, 1).v, bytes));
  }
}

TEST_F(KvDemotionTest, MemoryIsGivenBackPageByPage) {
  auto kv = Decoded("paper-s8", 300);
  const size_t used = pool_->usage().used_bytes;
  const KvLayout layout = Layout("paper-s2");
  const auto expected = static_cast<size_t>(BytesFreedBy(*pool_, *kv, layout));
  EXPECT_EQ(expected, kv->n_pages() * (BlockBytes(kv->layout().page_block_bytes()) -
                                       BlockBytes(layout.page_block_bytes())));
  auto demotion = Begin(&kv, layout);
  ASSERT_THAT(demotion, IsOk());
  // What was coded ahead is dropped.
  const size_t ahead = used - pool_->usage().used_bytes;
  (*demotion)->RunSlice(1);
  EXPECT_LT(pool_->usage().used_bytes, used - ahead);
  EXPECT_EQ(pool_->usage().used_bytes, used - ahead - (*demotion)->freed_bytes());
  while (!(*demotion)->done()) (*demotion)->RunSlice(1);
  EXPECT_EQ((*demotion)->freed_bytes(), static_cast<int64_t>(expected));
  kv = (*demotion)->Finish();
  EXPECT_EQ(pool_->usage().used_bytes, used - ahead - expected);
}

TEST_F(KvDemotionTest, ADemotionThatIsGivenUpLeaksNothing) {
  auto kv = Decoded("paper-s8", 300);
  auto demotion = Begin(&kv, Layout("paper-s2"));
  ASSERT_THAT(demotion, IsOk());
  (*demotion)->RunSlice(2);
  EXPECT_FALSE((*demotion)->done());
  demotion->reset();
  EXPECT_EQ(pool_->usage().used_blocks, 0);
}

TEST_F(KvDemotionTest, GoesOnDecodingAndSealing) {
  auto kv = Demote(Decoded("paper-s8", 310), "paper-s4");
  const int64_t n_pages = kv->n_pages();
  Decode(*kv, 100);
  EXPECT_EQ(kv->n_pages(), n_pages + 3);
  EXPECT_EQ(kv->n_tokens(), 410);
  EXPECT_EQ(kv->layout().profile.name, "paper-s4");
}

TEST_F(KvDemotionTest, AForkKeepsItsPages) {
  auto kv = Decoded("paper-s8", 300);
  auto fork = *kv->Fork();
  EXPECT_EQ(BytesFreedBy(*pool_, *kv, Layout("paper-s4")), 0);
  kv = Demote(std::move(kv), "paper-s4");
  ExpectSamePages(*fork, *Decoded("paper-s8", 300));
  ExpectSamePages(*kv, *Demote(Decoded("paper-s8", 300), "paper-s4"));
  // The fork alone holds the old ones now.
  fork = Demote(std::move(fork), "paper-s4");
  ExpectSamePages(*kv, *fork);
}

TEST_F(KvDemotionTest, SharedPagesNeedRoomAndNothingHappensWithout) {
  auto kv = Decoded("paper-s8", 300);
  auto fork = *kv->Fork();
  std::vector<uint8_t*> others(pool_->FreeBlocks(1 << 18));
  ASSERT_TRUE(pool_->Acquire(1 << 18, others));
  SessionKv* const session = kv.get();
  const auto refused = Begin(&kv, Layout("paper-s4"));
  EXPECT_THAT(refused, StatusIs(StatusCode::kResourceExhausted, "5 of the session's 5 blocks"));
  EXPECT_EQ(kv.get(), session);
  ExpectSamePages(*kv, *fork);
  pool_->Release(others);
}

TEST_F(KvDemotionTest, InAnEmptyPoolPagesBecomeSmallerWhereTheyAre) {
  for (const auto& [from, to] : kPairs) {
    SCOPED_TRACE(std::string(from) + " to " + to);
    auto expected = Demote(Decoded(from, 300), to);
    auto kv = Decoded(from, 300);
    const size_t code_bytes = kv->n_pages() * kv->layout().page_block_bytes();
    std::vector<uint8_t*> others(pool_->FreeBlocks(1 << 18));
    ASSERT_TRUE(pool_->Acquire(1 << 18, others));
    std::vector<uint8_t*> small(pool_->FreeBlocks(Layout(to).page_block_bytes()));
    ASSERT_TRUE(small.empty() || pool_->Acquire(Layout(to).page_block_bytes(), small));
    kv = Demote(std::move(kv), to, 2);
    ExpectSamePages(*kv, *expected);
    // They are all of a slab's, so that they could move to blocks of their size.
    EXPECT_EQ(kv->memory().code_bytes, kv->n_pages() * kv->layout().page_block_bytes());
    EXPECT_LT(kv->memory().code_bytes, code_bytes);
    pool_->Release(others);
    if (!small.empty()) pool_->Release(small);
  }
}

TEST_F(KvDemotionTest, ASpareSlabIsAPlaceToBegin) {
  pool_->KeepSpare(1);
  auto expected = Demote(Decoded("paper-s8", 300), "paper-s4");
  auto kv = Decoded("paper-s8", 300);
  std::vector<uint8_t*> neighbours(1);
  ASSERT_TRUE(pool_->Acquire(kv->layout().page_block_bytes(), neighbours));
  std::vector<uint8_t*> others(pool_->FreeBlocks(1 << 18));
  ASSERT_TRUE(pool_->Acquire(1 << 18, others));
  std::vector<uint8_t*> small(pool_->FreeBlocks(Layout("paper-s4").page_block_bytes()));
  ASSERT_TRUE(pool_->Acquire(Layout("paper-s4").page_block_bytes(), small));
  EXPECT_EQ(pool_->free_slabs(), 0);
  EXPECT_GT(BytesFreedBy(*pool_, *kv, Layout("paper-s4")), 0);
  kv = Demote(std::move(kv), "paper-s4");
  ExpectSamePages(*kv, *expected);
  EXPECT_EQ(kv->memory().code_bytes, kv->n_pages() * kv->layout().page_block_bytes());
  for (auto* blocks : {&neighbours, &others, &small}) pool_->Release(*blocks);
}

TEST_F(KvDemotionTest, WhatCannotMoveIsCountedAsItIs) {
  auto expected = Demote(Decoded("paper-s8", 300), "paper-s4");
  auto kv = Decoded("paper-s8", 300);
  // Another session's page in the slab of these, and nothing else free.
  std::vector<uint8_t*> neighbours(1);
  ASSERT_TRUE(pool_->Acquire(kv->layout().page_block_bytes(), neighbours));
  std::vector<uint8_t*> others(pool_->FreeBlocks(1 << 18));
  ASSERT_TRUE(pool_->Acquire(1 << 18, others));
  std::vector<uint8_t*> small(pool_->FreeBlocks(Layout("paper-s4").page_block_bytes()));
  ASSERT_TRUE(pool_->Acquire(Layout("paper-s4").page_block_bytes(), small));
  EXPECT_EQ(BytesFreedBy(*pool_, *kv, Layout("paper-s4")), 0);
  const size_t code_bytes = kv->n_pages() * BlockBytes(kv->layout().page_block_bytes());
  const KvLayout after = Layout("paper-s4");
  kv = Demote(std::move(kv), "paper-s4");
  ExpectSamePages(*kv, *expected);
  EXPECT_EQ(kv->memory().code_bytes,
            code_bytes -
                kv->n_pages() * (BlockBytes(after.page_block_bytes()) - after.page_block_bytes()));
  auto fork = kv->Fork();
  pool_->Release(neighbours);
  pool_->Release(others);
  pool_->Release(small);
}

TEST_F(KvDemotionTest, PagesOfADemotedSessionHaveOtherNames) {
  auto direct = Decoded("paper-s4", 300);
  auto demoted = Demote(Decoded("paper-s8", 300), "paper-s4");
  auto earlier = Decoded("paper-s8", 290);
  earlier = Demote(std::move(earlier), "paper-s4");
  random_.seed(50);
  EXPECT_EQ(direct->scope().profile, demoted->scope().profile);
  EXPECT_NE(direct->chain(0).state, demoted->chain(0).state);
  EXPECT_NE(earlier->chain(0).state, demoted->chain(0).state);
  const auto& demotions = demoted->scope().demotions;
  ASSERT_EQ(demotions.size(), 1u);
  EXPECT_EQ(demotions[0], (store::Demotion{"paper-s8", 160, 300}));
  // Again: both are part of the name.
  auto twice = Demote(Demote(Decoded("paper-s8", 300), "paper-s4"), "paper-s2");
  EXPECT_EQ(twice->scope().demotions.size(), 2u);
  auto once = Demote(Decoded("paper-s8", 300), "paper-s2");
  EXPECT_NE(twice->chain(0).state, once->chain(0).state);
}

TEST_F(KvDemotionTest, ASessionWithoutPagesIsOneOfTheSmallerProfile) {
  auto demoted = Demote(Decoded("paper-s8", 100), "paper-s4");
  const auto direct = Decoded("paper-s4", 100);
  EXPECT_TRUE(demoted->scope().demotions.empty());
  EXPECT_EQ(demoted->WindowChain().state, direct->WindowChain().state);
}

TEST_F(KvDemotionTest, ComesBackFromAStoreAndGoesOnBitForBit) {
  auto kv = Demote(Decoded("paper-s8", 310), "paper-s4");
  const SessionSnapshot snapshot = Export(*kv);
  ASSERT_THAT(store::CheckManifest(snapshot.manifest), IsOk());
  EXPECT_EQ(snapshot.manifest.profile, "paper-s4");
  auto result = Import(snapshot);
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->n_lost_tokens, 0);
  EXPECT_EQ(result->kv->scope().demotions, kv->scope().demotions);
  random_.seed(77);
  Decode(*kv, 60);
  random_.seed(77);
  Decode(*result->kv, 60);
  ExpectSamePages(*kv, *result->kv);
  EXPECT_EQ(kv->WindowChain().state, result->kv->WindowChain().state);
  EXPECT_EQ(Export(*kv).manifest, Export(*result->kv).manifest);
}

// What was lost is coded directly: the name says to where pages were demoted.
TEST_F(KvDemotionTest, WhatIsLostIsNotCalledDemoted) {
  auto kv = Demote(Decoded("paper-s8", 310), "paper-s4");
  const SessionSnapshot snapshot = Export(*kv);
  auto some = Import(snapshot, [](int64_t i) { return i == 3 * kLayers; });
  ASSERT_THAT(some, IsOk());
  EXPECT_EQ(some->kv->n_pages(), 3);
  ASSERT_EQ(some->kv->scope().demotions.size(), 1u);
  EXPECT_EQ(some->kv->scope().demotions[0], (store::Demotion{"paper-s8", 96, 96}));
  EXPECT_NE(some->kv->chain(0).state, kv->chain(0).state);
  auto all = Import(snapshot, [](int64_t i) { return i == 0; });
  ASSERT_THAT(all, IsOk());
  EXPECT_TRUE(all->kv->scope().demotions.empty());
  EXPECT_EQ(all->kv->layout().profile.name, "paper-s4");
}

TEST_F(KvDemotionTest, AManifestThatLiesAboutItsDemotionsIsRefused) {
  auto kv = Demote(Decoded("paper-s8", 310), "paper-s4");
  SessionSnapshot snapshot = Export(*kv);
  snapshot.manifest.demotions[0].from = "paper-s16";
  EXPECT_THAT(Import(snapshot), StatusIs(StatusCode::kDataLoss, "its tokens make it"));
  snapshot.manifest.demotions.clear();
  EXPECT_THAT(Import(snapshot), StatusIs(StatusCode::kDataLoss, "its tokens make it"));
}

TEST(DemotedErrorTest, AddsWhatIsOrthogonal) {
  EXPECT_FLOAT_EQ(DemotedError(0, 0.25f), 0.25f);
  EXPECT_FLOAT_EQ(DemotedError(0.25f, 0), 0.25f);
  EXPECT_NEAR(DemotedError(0.6f, 0.5f), std::sqrt(0.36 + 0.25 * 0.64), 1e-6);
  EXPECT_FLOAT_EQ(DemotedError(1.5f, 0.5f), 1.5f);
}

}  // namespace
}  // namespace lexico::worker

#include <cstring>
#include <limits>

#include "tests/support/status_matchers.h"
#include "tests/worker/kv_fixture.h"
#include "worker/kv/session_kv.h"

namespace lexico::worker {
namespace {

using absl::StatusCode;
using tests::StatusIs;

class SessionKvTest : public KvTest {
 protected:
  // A window row as BF16 bits of K of layer 0.
  static std::vector<uint16_t> WindowK(const SessionKv& kv, int layer) {
    const kernels::DenseRows piece = kv.window(layer, kv.window_rows());
    const auto* bits = static_cast<const uint16_t*>(piece.k);
    return {bits, bits + kv.window_rows() * kRowDim};
  }
  static std::vector<uint8_t> PageBytes(const SessionKv& kv, int layer, int64_t page) {
    const uint8_t* bytes = kv.page_blocks()[page] + kv.layout().page_offset(layer);
    return {bytes, bytes + kv.layout().page_bytes()};
  }
};

TEST_F(SessionKvTest, TheWindowAlwaysHoldsTheNewest128) {
  auto kv = Open(Layout("paper-s4"));
  for (int n = 1; n <= 400; ++n) {
    Decode(*kv, 1);
    ASSERT_EQ(kv->n_tokens(), n);
    ASSERT_GE(kv->window_rows(), std::min(n, 128));
    ASSERT_LE(kv->window_rows(), 159);
    ASSERT_EQ(kv->n_pages(), n < 160 ? 0 : (n - 128) / 32);
  }
}

TEST_F(SessionKvTest, SealingMovesTheOldestRowsAndKeepsTheOthersBits) {
  auto kv = Open(Layout("dense"));
  Decode(*kv, 159);
  const std::vector<uint16_t> before = WindowK(*kv, 1);
  Decode(*kv, 1);
  ASSERT_EQ(kv->n_pages(), 1);
  const std::vector<uint16_t> after = WindowK(*kv, 1);
  ASSERT_EQ(after.size(), 128u * kRowDim);
  EXPECT_TRUE(std::equal(before.begin() + 32 * kRowDim, before.end(), after.begin()));
  // A dense page is head-major: [head, token, head_dim].
  const std::vector<uint8_t> page = PageBytes(*kv, 1, 0);
  for (int token = 0; token < 32; ++token) {
    for (int head = 0; head < kHeads; ++head) {
      EXPECT_EQ(0, std::memcmp(page.data() + (head * 32 + token) * kHeadDim * 2,
                               before.data() + token * kRowDim + head * kHeadDim, kHeadDim * 2))
          << token << " " << head;
    }
  }
}

TEST_F(SessionKvTest, PagesCodedAheadEqualPagesCodedAtOnce) {
  const KvLayout layout = Layout("paper-s4");
  auto kv = Open(layout);
  Decode(*kv, 128);
  std::vector<std::vector<float>> k(kLayers), v(kLayers);
  for (int layer = 0; layer < kLayers; ++layer) {
    const kernels::DenseRows piece = kv->window(layer, 32);
    for (const bool value : {false, true}) {
      const auto* bits = static_cast<const uint16_t*>(value ? piece.v : piece.k);
      auto& rows = value ? v[layer] : k[layer];
      for (int i = 0; i < 32 * kRowDim; ++i) {
        const uint32_t wide = static_cast<uint32_t>(bits[i]) << 16;
        float x;
        std::memcpy(&x, &wide, 4);
        rows.push_back(x);
      }
    }
  }
  Decode(*kv, 32);
  ASSERT_EQ(kv->n_pages(), 1);
  for (int layer = 0; layer < kLayers; ++layer) {
    std::vector<uint8_t> block(layout.page_block_bytes());
    uint8_t* pointer = block.data();
    PageError error;
    ASSERT_TRUE(EncodePages(layout, dictionaries_[layer], k[layer].data(), v[layer].data(), layer,
                            {&pointer, 1}, {&error, 1}, stream_, scratch_)
                    .ok());
    const auto page = block.begin() + static_cast<int64_t>(layout.page_offset(layer));
    EXPECT_EQ(std::vector(page, page + static_cast<int64_t>(layout.page_bytes())),
              PageBytes(*kv, layer, 0))
        << layer;
    EXPECT_EQ(error.k, kv->page_error(0, layer).k);
    EXPECT_EQ(error.v, kv->page_error(0, layer).v);
    EXPECT_GT(error.k, 0);
    EXPECT_LT(error.k, 1);
  }
}

TEST_F(SessionKvTest, CodingIsSpreadOverTheStepsBeforeASealing) {
  auto kv = Open(Layout("paper-s4"));
  Decode(*kv, 128);
  int layers_coded = 0;
  int64_t most = 0;
  for (int i = 0; i < 32; ++i) {
    const int32_t id = 1;
    kv->AddPending({&id, 1});
    ASSERT_TRUE(kv->ReserveRow().ok());
    const std::vector<float> row = RandomRows(1);
    for (int layer = 0; layer < kLayers; ++layer) WriteRow(*kv, layer, row, row);
    const auto n = CodeOne(*kv);
    ASSERT_TRUE(n.ok());
    most = std::max(most, *n);
    layers_coded += static_cast<int>(*n / (2 * 32 * kHeads));
  }
  EXPECT_EQ(layers_coded, kLayers);
  EXPECT_EQ(most, 2 * 32 * kHeads);  // never two layers in one step
  EXPECT_EQ(kv->n_pages(), 1);
}

TEST_F(SessionKvTest, SessionsThatFillAtDifferentTimesCodeTheSameLayers) {
  auto one = Open(Layout("paper-s4"));
  auto other = Open(Layout("paper-s4"));
  Decode(*one, 129);
  Decode(*other, 145);
  // `one` has just begun; `other` has coded all of its three layers long ago.
  EXPECT_EQ(one->LayersDue(7), std::vector<int>{7 % kLayers});
  EXPECT_TRUE(other->LayersDue(7).empty());
  auto third = Open(Layout("paper-s4"));
  Decode(*third, 128);
  AddRow(*third);
  for (int64_t step = 0; step < 2 * kLayers; ++step) {
    const auto layer = static_cast<int>(step % kLayers);
    EXPECT_EQ(third->LayersDue(step), std::vector<int>{layer});
  }
}

TEST_F(SessionKvTest, WhatIsCodedTogetherIsCodedToTheSameBits) {
  // Twins: the first of each pair is coded beside others, the second alone.
  std::vector<std::unique_ptr<SessionKv>> together;
  std::vector<std::unique_ptr<SessionKv>> alone;
  const char* const profiles[] = {"paper-s4", "paper-s4", "dense", "paper-s2", "paper-s4"};
  for (int i = 0; i < 5; ++i) {
    together.push_back(Open(Layout(profiles[i])));
    Decode(*together.back(), 120 + i / 2);  // some begin to code in the same step
    alone.push_back(*together.back()->Fork());
  }
  for (int64_t step = 0; step < 60; ++step) {
    std::vector<SessionKv*> batch;
    for (int i = 0; i < 5; ++i) {
      const std::vector<float> row = RandomRows(1);
      AddRow(*together[i], row);
      AddRow(*alone[i], row);
      ASSERT_TRUE(CodeOne(*alone[i]).ok());
      batch.push_back(together[i].get());
    }
    coder_.Begin(batch, step, 2);
    for (SessionKv* kv : batch) kv->CommitRow();
    const CodedAhead coded = coder_.Finish();
    for (const absl::Status& status : coded.statuses) ASSERT_TRUE(status.ok()) << status;
  }
  for (int i = 0; i < 5; ++i) {
    ASSERT_EQ(together[i]->n_pages(), alone[i]->n_pages());
    ASSERT_GT(together[i]->n_pages(), 0);
    for (int layer = 0; layer < kLayers; ++layer) {
      EXPECT_EQ(PageBytes(*together[i], layer, 0), PageBytes(*alone[i], layer, 0));
      EXPECT_EQ(together[i]->page_error(0, layer).k, alone[i]->page_error(0, layer).k);
    }
  }
}

TEST_F(SessionKvTest, WhatIsCodedBesideStepsIsWhatIsCodedBehindThem) {
  auto behind = Open(Layout("paper-s4"));
  Decode(*behind, 125);
  std::unique_ptr<SessionKv> other = *behind->Fork();
  const kernels::Stream stream = kernels::Stream::Cpu(1);
  CoderScratch scratch;
  AheadCoder beside(
      {{.dictionaries = dictionaries_, .stream = &stream_, .beside = &stream, .scratch = &scratch}},
      &team_);
  for (int64_t step = step_; other->n_pages() < 2; ++step) {
    const std::vector<float> row = RandomRows(1);
    AddRow(*behind, row);
    ASSERT_TRUE(CodeOne(*behind).ok());
    const int32_t id = 1;
    other->AddPending({&id, 1});
    ASSERT_TRUE(other->ReserveRow().ok());
    SessionKv* const session = other.get();
    beside.Begin({&session, 1}, step, 8);
    for (int layer = 0; layer < kLayers; ++layer) WriteRow(*other, layer, row, row);
    other->CommitRow();
    ASSERT_TRUE(beside.Finish().statuses[0].ok());
  }
  ASSERT_EQ(behind->n_pages(), 2);
  for (int layer = 0; layer < kLayers; ++layer) {
    EXPECT_EQ(PageBytes(*behind, layer, 1), PageBytes(*other, layer, 1));
    EXPECT_EQ(WindowK(*behind, layer), WindowK(*other, layer));
  }
}

TEST_F(SessionKvTest, ASessionThatMissedStepsHasAllLayersWhenItsWindowIsFull) {
  auto kv = Open(Layout("paper-s4"));
  Decode(*kv, 128);
  // It decodes at every third of the steps only, so that always the same layer is on.
  for (int i = 0; i < 32; ++i) {
    AddRow(*kv);
    step_ += kLayers - 1;
    ASSERT_TRUE(CodeOne(*kv).ok());
  }
  EXPECT_EQ(kv->n_pages(), 1);
  EXPECT_GT(kv->page_error(0, 0).k, 0);
}

TEST_F(SessionKvTest, ARowThatIsNoNumberFailsItsOwnSessionOnly) {
  auto good = Open(Layout("paper-s4"));
  auto bad = Open(Layout("paper-s4"));
  Decode(*good, 128);
  Decode(*bad, 128);
  AddRow(*good);
  AddRow(*bad);
  for (int layer = 0; layer < kLayers; ++layer) {
    std::memset(bad->window_row(layer, false, 0), 0xff, 2 * kRowDim);
  }
  SessionKv* const sessions[] = {bad.get(), good.get()};
  coder_.Begin(sessions, 0, 8);
  for (SessionKv* kv : sessions) kv->CommitRow();
  const CodedAhead coded = coder_.Finish();
  EXPECT_TRUE(absl::IsInternal(coded.statuses[0])) << coded.statuses[0];
  EXPECT_TRUE(coded.statuses[1].ok()) << coded.statuses[1];
  EXPECT_EQ(coded.n_vectors, 2 * 32 * kHeads);
}

TEST_F(SessionKvTest, AForkSharesPagesAndGoesItsOwnWay) {
  auto kv = Open(Layout("paper-s4"));
  Decode(*kv, 200);
  const int64_t blocks = pool_->usage().used_blocks;
  auto fork = kv->Fork();
  ASSERT_TRUE(fork.ok());
  EXPECT_EQ(pool_->usage().used_blocks, blocks + 1);  // windows only
  const std::vector<uint16_t> window = WindowK(*kv, 0);
  const std::vector<uint8_t> page = PageBytes(*kv, 2, 1);
  EXPECT_EQ(WindowK(**fork, 0), window);
  EXPECT_EQ((*fork)->page_blocks()[1], kv->page_blocks()[1]);
  Decode(**fork, 100);
  EXPECT_EQ(kv->n_tokens(), 200);
  EXPECT_EQ(WindowK(*kv, 0), window);
  kv.reset();
  EXPECT_EQ(PageBytes(**fork, 2, 1), page);
}

TEST_F(SessionKvTest, MemoryIsWhatThePoolGave) {
  auto kv = Open(Layout("paper-s4"));
  for (int n = 0; n < 300; n += 7) {
    Decode(*kv, 7);
    const KvMemory memory = kv->memory();
    ASSERT_EQ(memory.code_bytes + memory.window_bytes, pool_->usage().used_bytes) << n;
    ASSERT_EQ(memory.fp16_equivalent_bytes,
              static_cast<size_t>(kv->n_tokens()) * kLayers * kRowDim * 4);
  }
}

TEST_F(SessionKvTest, BookkeepingStaysBelowHalfAPercent) {
  // Of the embedded model's shape, 20,000 tokens: 8,192 bytes of FP16 a token.
  const KvLayout layout = MakeKvLayout({.n_layers = 8, .n_kv_heads = 2, .head_dim = 128},
                                       *base::ParseProfile("paper-s16"), 4096);
  auto pool = *PagePool::Create(size_t{64} << 20, 2 << 20);
  auto kv = *SessionKv::Create(pool.get(), layout, MakeChainScope(layout, Identity(), ""));
  const std::vector<int32_t> ids(20000, 5);
  kv->AddPending(ids);
  ASSERT_TRUE(kv->ReservePages(20000).ok());
  kv->CommitPrefill(20000);
  const KvMemory memory = kv->memory();
  const auto fp16 = static_cast<double>(memory.fp16_equivalent_bytes);
  EXPECT_LT(static_cast<double>(memory.bookkeeping_bytes), 0.005 * fp16);
  EXPECT_LT(static_cast<double>(memory.held_bytes()), 0.2 * fp16);
}

TEST_F(SessionKvTest, PrefillSealsWhatDecodeWouldHave) {
  const KvLayout layout = Layout("dense");
  for (const int n : {1, 128, 159, 160, 161, 191, 192, 500}) {
    auto decoded = Open(layout);
    Decode(*decoded, n);
    auto prefilled = Open(layout);
    const std::vector<int32_t> ids(n, 1);
    prefilled->AddPending(ids);
    ASSERT_TRUE(prefilled->ReservePages(n).ok());
    const std::vector<float> rows = RandomRows(n);
    for (int layer = 0; layer < kLayers; ++layer) {
      const int64_t sealed = prefilled->n_reserved_pages() * 32;
      const int64_t n_pages = prefilled->n_reserved_pages();
      ASSERT_TRUE(EncodePages(layout, {}, rows.data(), rows.data(), layer,
                              prefilled->reserved_blocks(),
                              prefilled->reserved_errors().subspan(layer * n_pages, n_pages),
                              stream_, scratch_)
                      .ok());
      const kernels::TensorView window(rows.data() + sealed * kRowDim, {n - sealed, kRowDim});
      prefilled->ReplaceWindow(0, layer, window, window, stream_);
    }
    prefilled->CommitPrefill(n);
    EXPECT_EQ(prefilled->n_pages(), decoded->n_pages()) << n;
    EXPECT_EQ(prefilled->window_rows(), decoded->window_rows()) << n;
    EXPECT_EQ(prefilled->n_tokens(), n);
  }
}

TEST_F(SessionKvTest, SegmentsSayHowTokensWereComputed) {
  using store::SegmentKind;
  auto kv = Open(Layout("dense"));
  Decode(*kv, 5);
  const std::vector<int32_t> ids(3, 1);
  kv->AddPending(ids);
  ASSERT_TRUE(kv->ReservePages(3).ok());
  kv->CommitPrefill(3);
  Decode(*kv, 2);
  const std::vector<store::Segment> expected = {
      {0, SegmentKind::kDecode}, {5, SegmentKind::kPrefill}, {8, SegmentKind::kDecode}};
  EXPECT_EQ(std::vector(kv->segments().begin(), kv->segments().end()), expected);
  kv->PopRow();
  kv->PopRow();
  kv->PopRow();
  EXPECT_EQ(kv->segments().size(), 2u);
  EXPECT_EQ(kv->n_tokens(), 7);
  EXPECT_EQ(kv->pending().size(), 3u);
}

TEST_F(SessionKvTest, RowsThatAreNotFiniteInTheCacheTypeAreSeen) {
  auto kv = Open(Layout("dense", kernels::DType::kF16));
  std::vector<float> row(kRowDim, 1.0f);
  const std::vector<float> good = row;
  EXPECT_EQ(WriteRow(*kv, 0, good, row), 0);
  row[5] = 70000;  // beyond F16
  EXPECT_EQ(WriteRow(*kv, 0, row, good), kernels::kNonFiniteKey);
  EXPECT_EQ(WriteRow(*kv, 0, good, row), kernels::kNonFiniteValue);
  row[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(WriteRow(*kv, 0, good, row), kernels::kNonFiniteValue);
}

TEST_F(SessionKvTest, AFullPoolIsResourceExhaustedAndTheSessionStays) {
  const KvLayout layout = Layout("dense");
  auto pool = *PagePool::Create(2 << 16, 1 << 16);  // windows take one slab, pages the other
  auto kv = *SessionKv::Create(pool.get(), layout, MakeChainScope(layout, Identity(), ""));
  const std::vector<int32_t> ids(5000, 1);
  kv->AddPending(ids);
  EXPECT_THAT(kv->ReservePages(5000),
              StatusIs(StatusCode::kResourceExhausted, "blocks of pages (12.0 KiB) needed"));
  EXPECT_EQ(kv->n_reserved_pages(), 0);
  EXPECT_EQ(kv->n_tokens(), 0);
  std::vector<std::unique_ptr<SessionKv>> forks;
  absl::Status last;
  while (last.ok()) {
    auto fork = kv->Fork();
    last = fork.status();
    if (fork.ok()) forks.push_back(std::move(*fork));
  }
  EXPECT_THAT(last, StatusIs(StatusCode::kResourceExhausted, "raise --kv_memory"));
}

TEST_F(SessionKvTest, ADecodeThatCannotSealIsRefusedBeforeTheRow) {
  const KvLayout layout = Layout("paper-s4");
  auto pool = *PagePool::Create(1 << 16, 1 << 16);  // windows only
  auto kv = *SessionKv::Create(pool.get(), layout, MakeChainScope(layout, Identity(), ""));
  Decode(*kv, 128);
  const int32_t id = 1;
  kv->AddPending({&id, 1});
  EXPECT_THAT(kv->ReserveRow(), StatusIs(StatusCode::kResourceExhausted, "pages"));
  EXPECT_EQ(kv->n_tokens(), 128);
  EXPECT_EQ(kv->pending().size(), 1u);
}

}  // namespace
}  // namespace lexico::worker

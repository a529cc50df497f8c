#include <cstring>

#include "tests/support/status_matchers.h"
#include "tests/worker/carry_pages.h"
#include "tests/worker/kv_fixture.h"
#include "worker/kv/snapshot.h"

namespace lexico::worker {
namespace {

using absl::StatusCode;
using tests::IsOk;
using tests::StatusIs;

// Blocks are read where they lie, or through lanes whose halves hold two dense pages or six coded
// ones, as on a device.
class SnapshotTest : public KvTest, public testing::WithParamInterface<bool> {
 protected:
  SnapshotTest() : KvTest({.n_lanes = 2, .half_bytes = 10000, .on_host = GetParam()}) {}

  // A manifest as the service completes it.
  static store::Manifest Complete(store::Manifest manifest) {
    manifest.session_id = "s";
    return manifest;
  }
  SessionSnapshot Export(const SessionKv& kv) {
    SessionSnapshot snapshot = SessionExport(pool_.get(), kv, true).Finish();
    snapshot.manifest = Complete(std::move(snapshot.manifest));
    return snapshot;
  }
  absl::StatusOr<std::unique_ptr<SessionImport>> Begin(const KvLayout& layout,
                                                       const store::Manifest& manifest) {
    return SessionImport::Begin(pool_.get(), layout, Identity(), manifest);
  }
  static void ExpectSame(const SessionKv& a, const SessionKv& b) {
    ASSERT_EQ(a.n_tokens(), b.n_tokens());
    ASSERT_EQ(a.n_pages(), b.n_pages());
    EXPECT_TRUE(std::equal(a.log().begin(), a.log().end(), b.log().begin(), b.log().end()));
    EXPECT_EQ(std::vector(a.segments().begin(), a.segments().end()),
              std::vector(b.segments().begin(), b.segments().end()));
    const size_t window_bytes = a.window_rows() * a.layout().shape.row_bytes();
    for (int layer = 0; layer < kLayers; ++layer) {
      for (int64_t page = 0; page < a.n_pages(); ++page) {
        EXPECT_EQ(0, std::memcmp(a.page_blocks()[page] + a.layout().page_offset(layer),
                                 b.page_blocks()[page] + b.layout().page_offset(layer),
                                 a.layout().page_bytes()));
        EXPECT_EQ(a.page_error(page, layer).v, b.page_error(page, layer).v);
      }
      const auto wa = a.window(layer, a.window_rows());
      const auto wb = b.window(layer, b.window_rows());
      EXPECT_EQ(0, std::memcmp(wa.k, wb.k, window_bytes));
      EXPECT_EQ(0, std::memcmp(wa.v, wb.v, window_bytes));
    }
    EXPECT_EQ(a.WindowChain().state, b.WindowChain().state);
  }
};

TEST_P(SnapshotTest, ASessionComesBackBitForBit) {
  for (const char* profile : {"dense", "paper-s4"}) {
    for (const int n : {1, 127, 159, 160, 177, 300}) {
      const KvLayout layout = Layout(profile);
      auto kv = Open(layout);
      Decode(*kv, n);
      const std::vector<int32_t> pending = {4, 5};
      kv->AddPending(pending);
      const SessionSnapshot snapshot = Export(*kv);
      ASSERT_THAT(store::CheckManifest(snapshot.manifest), IsOk());
      auto import = Begin(layout, snapshot.manifest);
      ASSERT_THAT(import, IsOk());
      ASSERT_THAT(Carry(snapshot, **import), IsOk());
      const SessionImport::Result result = (*import)->Finish();
      EXPECT_EQ(result.n_lost_tokens, 0);
      ExpectSame(*kv, *result.kv);
      EXPECT_EQ(result.kv->pending().size(), 2u);
    }
  }
}

TEST_P(SnapshotTest, KeysAreThoseOfTheSessionWhateverItsHistoryOfSnapshots) {
  const KvLayout layout = Layout("paper-s4");
  auto kv = Open(layout);
  Decode(*kv, 200);
  auto import = Begin(layout, Export(*kv).manifest);
  ASSERT_THAT(Carry(Export(*kv), **import), IsOk());
  auto restored = (*import)->Finish();
  // The same tokens with the same rows from here on.
  random_.seed(99);
  Decode(*kv, 100);
  random_.seed(99);
  Decode(*restored.kv, 100);
  EXPECT_EQ(Export(*kv).manifest, Export(*restored.kv).manifest);
}

TEST_P(SnapshotTest, OtherTenantsHaveOtherKeys) {
  const KvLayout layout = Layout("paper-s4");
  auto ours = Open(layout);
  Decode(*ours, 200);
  auto theirs =
      *SessionKv::Create(pool_.get(), layout, MakeChainScope(layout, Identity(), "another"));
  random_.seed(7);
  Decode(*theirs, 200);
  EXPECT_NE(Export(*ours).manifest.page_keys[0], Export(*theirs).manifest.page_keys[0]);
}

TEST_P(SnapshotTest, AMissingPageLeavesTheTokensFromItOnPending) {
  const KvLayout layout = Layout("paper-s4");
  auto kv = Open(layout);
  Decode(*kv, 300);  // 5 pages a layer
  const SessionSnapshot snapshot = Export(*kv);
  auto import = Begin(layout, snapshot.manifest);
  ASSERT_THAT(import, IsOk());
  const auto is_lost = [](int64_t i) { return i == 3 * kLayers + 1; };
  SessionSnapshot without_windows = snapshot;
  without_windows.windows.clear();
  ASSERT_THAT(Carry(without_windows, **import, is_lost), IsOk());
  const SessionImport::Result result = (*import)->Finish();
  EXPECT_EQ(result.kv->n_pages(), 3);
  EXPECT_EQ(result.kv->n_tokens(), 96);
  EXPECT_EQ(result.kv->pending().size(), 204u);
  EXPECT_EQ(result.n_lost_tokens, 204);
  EXPECT_EQ(result.kv->memory().code_bytes + result.kv->memory().window_bytes +
                kv->memory().code_bytes + kv->memory().window_bytes,
            pool_->usage().used_bytes);
}

TEST_P(SnapshotTest, WithoutItsWindowTheNewestTokensArePending) {
  const KvLayout layout = Layout("dense");
  auto kv = Open(layout);
  Decode(*kv, 170);
  SessionSnapshot snapshot = SessionExport(pool_.get(), *kv, false).Finish();
  snapshot.manifest = Complete(snapshot.manifest);
  EXPECT_TRUE(snapshot.manifest.window_keys.empty());
  auto import = Begin(layout, snapshot.manifest);
  ASSERT_THAT(import, IsOk());
  ASSERT_THAT(Carry(snapshot, **import), IsOk());
  const auto result = (*import)->Finish();
  EXPECT_EQ(result.kv->n_tokens(), 32);
  EXPECT_EQ(result.kv->pending().size(), 138u);
}

TEST_P(SnapshotTest, ForeignPagesAreRefused) {
  const KvLayout layout = Layout("paper-s4");
  auto kv = Open(layout);
  Decode(*kv, 200);
  const SessionSnapshot snapshot = Export(*kv);
  auto import = Begin(layout, snapshot.manifest);
  ASSERT_THAT(import, IsOk());
  EXPECT_FALSE((*import)->NextPages().empty());
  const std::vector<std::vector<uint8_t>> payloads = Payloads(snapshot.pages);
  EXPECT_THAT(CarryPage(**import, 0, snapshot.pages[1], payloads[1]),
              StatusIs(StatusCode::kFailedPrecondition, "key"));
  const auto result = (*import)->Finish();
  EXPECT_EQ(result.kv->n_tokens(), 0);
  EXPECT_EQ(result.kv->pending().size(), 200u);
}

TEST_P(SnapshotTest, AnotherModelOrProfileIsFailedPrecondition) {
  const KvLayout layout = Layout("paper-s4");
  auto kv = Open(layout);
  Decode(*kv, 10);
  store::Manifest manifest = Export(*kv).manifest;
  EXPECT_THAT(Begin(Layout("paper-s8"), manifest),
              StatusIs(StatusCode::kFailedPrecondition, "profile paper-s4"));
  manifest.model.bytes[3] ^= 1;
  EXPECT_THAT(Begin(layout, manifest),
              StatusIs(StatusCode::kFailedPrecondition, "model fingerprint"));
  manifest = Export(*kv).manifest;
  manifest.dictionary.bytes[3] ^= 1;
  EXPECT_THAT(Begin(layout, manifest),
              StatusIs(StatusCode::kFailedPrecondition, "dictionary fingerprint"));
}

TEST_P(SnapshotTest, AManifestWhoseKeysDoNotFollowFromItsTokensIsDataLoss) {
  const KvLayout layout = Layout("paper-s4");
  auto kv = Open(layout);
  Decode(*kv, 200);
  store::Manifest manifest = Export(*kv).manifest;
  manifest.tokens[3] ^= 1;
  EXPECT_THAT(Begin(layout, manifest), StatusIs(StatusCode::kDataLoss, "names page 0"));
  manifest = Export(*kv).manifest;
  manifest.tokens[199] ^= 1;
  EXPECT_THAT(Begin(layout, manifest), StatusIs(StatusCode::kDataLoss, "names a window"));
  manifest = Export(*kv).manifest;
  manifest.window_keys[2].bytes[0] ^= 1;
  EXPECT_THAT(Begin(layout, manifest), StatusIs(StatusCode::kDataLoss, "window of layer 2"));
}

TEST_P(SnapshotTest, AFullPoolRefusesAnImportAndKeepsNothing) {
  const KvLayout layout = Layout("dense");
  auto kv = Open(layout);
  Decode(*kv, 2000);
  const store::Manifest manifest = Export(*kv).manifest;
  auto small = *PagePool::Create(1 << 18, 1 << 18);
  EXPECT_THAT(SessionImport::Begin(small.get(), layout, Identity(), manifest),
              StatusIs(StatusCode::kResourceExhausted, "to restore the session"));
  EXPECT_EQ(small->usage().used_blocks, 0);
}

TEST_P(SnapshotTest, PagesOutliveTheSessionTheyCameFrom) {
  auto kv = Open(Layout("paper-s4"));
  Decode(*kv, 200);
  SessionSnapshot snapshot = Export(*kv);
  const auto before = Payloads(snapshot.pages);
  kv.reset();
  auto other = Open(Layout("paper-s4"));
  Decode(*other, 300);
  EXPECT_EQ(Payloads(snapshot.pages), before);
}

TEST_P(SnapshotTest, AnExportIsOfTheMomentItBegan) {
  const KvLayout layout = Layout("paper-s4");
  auto kv = Open(layout);
  Decode(*kv, 300);
  const SessionSnapshot expected = Export(*kv);
  SessionExport begun(pool_.get(), *kv, true);
  Decode(*kv, 100);
  kv.reset();
  const SessionSnapshot snapshot = begun.Finish();
  EXPECT_EQ(Complete(snapshot.manifest), expected.manifest);
  EXPECT_EQ(Payloads(snapshot.pages), Payloads(expected.pages));
  ASSERT_EQ(snapshot.windows.size(), expected.windows.size());
  EXPECT_EQ(snapshot.windows[1].payload, expected.windows[1].payload);
}

TEST_P(SnapshotTest, AnImportThatIsGivenUpLeavesNothingBehind) {
  const KvLayout layout = Layout("paper-s4");
  auto kv = Open(layout);
  Decode(*kv, 300);
  const size_t used_bytes = pool_->usage().used_bytes;
  const SessionSnapshot snapshot = Export(*kv);
  const auto payloads = Payloads(snapshot.pages);
  for (int n = 0; n < 10; ++n) {  // more often than there are lanes
    auto import = Begin(layout, snapshot.manifest);
    ASSERT_THAT(import, IsOk());
    const auto range = (*import)->NextPages();
    for (int64_t i = range.begin; i < range.end; ++i) {
      ASSERT_THAT(CarryPage(**import, i, snapshot.pages[i], payloads[i]), IsOk());
    }
    if (n % 2 == 0) continue;
    // What came before the end is kept.
    const auto result = (*import)->Finish();
    EXPECT_EQ(result.kv->n_pages(), range.end / kLayers);
  }
  EXPECT_EQ(pool_->usage().used_bytes, used_bytes);
}

INSTANTIATE_TEST_SUITE_P(Pools, SnapshotTest, testing::Bool(), [](const auto& parameter) {
  return parameter.param ? "ThroughLanes" : "InPlace";
});

}  // namespace
}  // namespace lexico::worker

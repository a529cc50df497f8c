// Deletions while the store, the workers or the coordinator are down: a deleted session is gone for
// its client at once, from the store in the end, and never comes back.
#include <gtest/gtest.h>

#include "cache_store/format/manifest.h"
#include "cache_store/server/store_server.h"
#include "proto/rpc/timestamp.h"
#include "tests/cache_store/page_factory.h"
#include "tests/coordinator/cluster_fixture.h"

namespace lexico::coord {
namespace {

using tests::IsOk;
using tests::StatusIs;
using enum absl::StatusCode;

class DeletionTest : public ClusterFixture {
 protected:
  void MakeStored(const std::string& id) {
    ASSERT_THAT(Create(id), IsOk());
    ASSERT_THAT(Append(id, {"a document"}), IsOk());
  }
  double Pending() { return static_cast<double>(server_->cluster().n_deletions()); }
};

TEST_F(DeletionTest, StoreThatIsDownIsToldOnceItIsUp) {
  AddWorker("w1");
  MakeStored("s");
  store_.set_down(true);
  ASSERT_THAT(Delete("s"), IsOk());
  EXPECT_THAT(Get("s"), StatusIs(kNotFound, "no session s"));
  EXPECT_THAT(Delete("s"), StatusIs(kNotFound, "no session s"));
  EXPECT_EQ(Pending(), 1);
  Eventually([&] { return MetricSum("lexico_deletions_pending") == 1; }, "it is a metric");
  Eventually([&] { return !WorkerAt("w1").Holds("s"); }, "the worker's memory is free");
  store_.set_down(false);
  Eventually([&] { return Pending() == 0; }, "the store has confirmed");
  EXPECT_FALSE(store_.Has("s"));
}

TEST_F(DeletionTest, DeletionOutlivesARestartOfTheCoordinator) {
  AddWorker("w1");
  MakeStored("s");
  store_.set_down(true);
  ASSERT_THAT(Delete("s"), IsOk());
  RestartCoordinator();
  EXPECT_EQ(Pending(), 1);
  EXPECT_THAT(Get("s"), StatusIs(kNotFound, "no session s"));
  store_.set_down(false);
  EXPECT_TRUE(store_.Has("s"));
  Eventually([&] { return Pending() == 0; }, "the store has confirmed");
  EXPECT_FALSE(store_.Has("s"));
  RestartCoordinator();
  EXPECT_EQ(Pending(), 0) << "and the journal has forgotten it";
}

TEST_F(DeletionTest, WithoutAWorkerADeletionWaitsForOne) {
  AddWorker("w1");
  MakeStored("s");
  WorkerAt("w1").Kill();
  ASSERT_THAT(Delete("s"), IsOk());
  EXPECT_TRUE(store_.Has("s"));
  AddWorker("w2");
  Eventually([&] { return !store_.Has("s"); }, "w2 reaches the store");
}

TEST_F(DeletionTest, LateSyncOfADeletedSessionDoesNotBringItBack) {
  AddWorker("w2");
  tests::FakeWorker& cut_off = AddWorker("w1", {.beats = false});
  ASSERT_TRUE(cut_off.Register().ok());
  MakeStored("a");
  MakeStored("b");
  const std::string id = cut_off.Holds("a") ? "a" : "b";
  ASSERT_TRUE(cut_off.Holds(id)) << "sessions spread";
  Eventually([&] { return StateOfWorker("w1") == v1::WORKER_STATE_LOST; }, "its lease ran out");
  ASSERT_THAT(Delete(id), IsOk());
  EXPECT_THAT(cut_off.Sync(id), StatusIs(kNotFound, "deleted"));
  EXPECT_FALSE(store_.Has(id));
  ASSERT_TRUE(cut_off.Register().ok());
  EXPECT_FALSE(cut_off.Holds(id)) << "revoked when it is back";
}

TEST_F(DeletionTest, IdThatIsUsedAgainBelongsToTheNewSession) {
  AddWorker("w1");
  MakeStored("s");
  store_.set_down(true);
  ASSERT_THAT(Delete("s"), IsOk());
  Eventually([&] { return !WorkerAt("w1").Holds("s"); }, "dropped");
  Eventually([&] { return Create("s").ok(); }, "the id is free");
  EXPECT_EQ(Pending(), 0);
  store_.set_down(false);
  ASSERT_THAT(Append("s", {"another document"}), IsOk());
  RestartCoordinator();
  EXPECT_EQ(Pending(), 0);
  absl::SleepFor(3 * options_.store_retry);
  EXPECT_TRUE(store_.Has("s"));
  Eventually([&] { return Get("s")->n_tokens() == 16; }, "the new session is whole");
}

TEST_F(DeletionTest, DeletionThatCannotBeWrittenDownLeavesTheSession) {
  AddWorker("w1");
  MakeStored("s");
  EXPECT_THAT(Get("s"), IsOk());
  store_.set_down(true);
  // A record of that key that is not ours: as from a second coordinator on the state.
  ASSERT_THAT(state_->Put("deleted/s", "x", 0, Durability::kDurable), IsOk());
  EXPECT_EQ(Delete("s").code(), kAborted);
  EXPECT_THAT(Get("s"), IsOk());
}

// With a real store, which the coordinator reaches by itself.
class StoreLinkTest : public DeletionTest {
 protected:
  void SetUp() override {
    StartStore();
    ClusterFixture::SetUp();
  }
  void StartStore() {
    stored_.reset();
    auto store = store::StoreServer::Start(
        {.address = store_address_.empty() ? "127.0.0.1:0" : store_address_,
         .bulk_address = "127.0.0.1:0",
         .store = {.data_dir = store_dir_.path(), .reserve_bytes = 0}});
    ASSERT_THAT(store, IsOk());
    stored_ = *std::move(store);
    store_address_ = "127.0.0.1:" + std::to_string(stored_->port());
  }
  // What a worker's sync of that session would do.
  absl::Status Sync(const v1::Session& session) {
    store::Manifest manifest = store::MakeManifest(session.session_id(), session.epoch(), {1});
    manifest.tenant = session.tenant();
    manifest.create_time_us = absl::ToUnixMicros(rpc::TimeFromProto(session.create_time()));
    return stored_->store().PutManifest(session.session_id(), session.epoch(),
                                        *store::EncodeManifest(manifest));
  }
  bool IsStored(const std::string& id) { return stored_->store().GetManifest(id).ok(); }
  std::vector<v1::Orphan> Orphans() {
    v1::ListOrphansResponse response;
    const grpc::Status status = admin_->ListOrphans(Context().get(), {}, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return {response.orphans().begin(), response.orphans().end()};
  }
  absl::Status DeleteOrphan(const v1::Orphan& orphan) {
    v1::DeleteOrphanRequest request;
    request.set_session_id(orphan.session_id());
    request.set_epoch(orphan.epoch());
    *request.mutable_create_time() = orphan.create_time();
    v1::DeleteOrphanResponse response;
    return rpc::FromGrpc(admin_->DeleteOrphan(Context().get(), request, &response));
  }

  tests::TempDir store_dir_;
  std::unique_ptr<store::StoreServer> stored_;
};

TEST_F(StoreLinkTest, SessionIsDeletedThereWithoutAWorkerAndItsLateSyncIsRefused) {
  AddWorker("w1");
  MakeStored("s");
  const v1::Session session = *Get("s");
  ASSERT_THAT(Sync(session), IsOk());
  WorkerAt("w1").Kill();
  ASSERT_THAT(Delete("s"), IsOk());
  EXPECT_FALSE(IsStored("s"));
  EXPECT_EQ(Pending(), 0);
  EXPECT_THAT(Sync(session), StatusIs(kNotFound, "was deleted"));
}

TEST_F(StoreLinkTest, SessionThatWasNeverStoredIsKnownAsDeletedByItsBirth) {
  AddWorker("w1");
  ASSERT_THAT(Create("s"), IsOk());
  const v1::Session session = *Get("s");
  stored_.reset();
  ASSERT_THAT(Delete("s"), IsOk());
  EXPECT_EQ(Pending(), 1);
  StartStore();
  Eventually([&] { return Pending() == 0; }, "the store has confirmed");
  EXPECT_THAT(Sync(session), StatusIs(kNotFound, "was deleted"));
  ASSERT_THAT(Create("s"), IsOk());
  EXPECT_THAT(Sync(*Get("s")), IsOk()) << "a later session of that id";
}

TEST_F(StoreLinkTest, OrphansAreListedAndDeletedAndKnownSessionsAreNot) {
  AddWorker("w1");
  MakeStored("known");
  ASSERT_THAT(Sync(*Get("known")), IsOk());
  v1::Session lost = *Get("known");
  lost.set_session_id("lost");
  lost.set_tenant("acme");
  ASSERT_THAT(Sync(lost), IsOk());
  const auto orphans = Orphans();
  ASSERT_EQ(orphans.size(), 1u);
  EXPECT_EQ(orphans[0].session_id(), "lost");
  EXPECT_EQ(orphans[0].tenant(), "acme");
  v1::Orphan known = orphans[0];
  known.set_session_id("known");
  EXPECT_THAT(DeleteOrphan(known), StatusIs(kFailedPrecondition, "known here"));
  ASSERT_THAT(DeleteOrphan(orphans[0]), IsOk());
  EXPECT_FALSE(IsStored("lost"));
  EXPECT_TRUE(IsStored("known"));
  EXPECT_TRUE(Orphans().empty());
}

TEST_F(StoreLinkTest, WhatAnEarlierSessionOfAKnownIdLeftIsAnOrphan) {
  AddWorker("w1");
  ASSERT_THAT(Create("s"), IsOk());
  v1::Session earlier = *Get("s");
  earlier.mutable_create_time()->set_seconds(1000);
  earlier.set_epoch(99);
  ASSERT_THAT(Sync(earlier), IsOk());
  const auto orphans = Orphans();
  ASSERT_EQ(orphans.size(), 1u);
  ASSERT_THAT(Sync(*Get("s")), IsOk());  // between the list and the deletion
  ASSERT_THAT(DeleteOrphan(orphans[0]), IsOk());
  EXPECT_TRUE(IsStored("s")) << "the session of today keeps its manifest";
}

TEST_F(StoreLinkTest, TheStoreIsShownAndVerified) {
  std::vector<store::NamedPage> pages;
  for (uint64_t n = 0; n < 20; ++n) pages.push_back(store::MakeNamedPage(n));
  ASSERT_TRUE(stored_->store().Put(pages).ok());
  v1::StoreStatus status;
  ASSERT_TRUE(admin_->GetStoreStatus(Context().get(), {}, &status).ok());
  ASSERT_EQ(status.tiers_size(), 2);
  EXPECT_EQ(status.tiers(1).tier(), "disk");
  EXPECT_EQ(status.tiers(1).n_pages(), 20u);
  EXPECT_FALSE(status.has_scrub_time());

  const auto context = Context();
  const auto reader = admin_->VerifyStore(context.get(), {});
  v1::VerifyProgress progress;
  while (reader->Read(&progress)) {
  }
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(progress.done());
  EXPECT_EQ(progress.n_pages(), 20u);
  EXPECT_EQ(progress.bytes(), 20u * 248);
  EXPECT_EQ(progress.n_damaged(), 0u);
  ASSERT_TRUE(admin_->GetStoreStatus(Context().get(), {}, &status).ok());
  EXPECT_TRUE(status.has_scrub_time());
}

TEST_F(StoreLinkTest, AVerificationEndsWithItsClient) {
  std::vector<store::NamedPage> pages;
  for (uint64_t n = 0; n < 20; ++n) pages.push_back(store::MakeNamedPage(n));
  ASSERT_TRUE(stored_->store().Put(pages).ok());
  v1::VerifyRequest request;
  request.set_bytes_per_second(1);
  const auto context = Context();
  context->set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(300)));
  const auto reader = admin_->VerifyStore(context.get(), request);
  v1::VerifyProgress progress;
  while (reader->Read(&progress)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  StartStore();  // waits for its calls: would hang for hours otherwise
  EXPECT_FALSE(IsStored("nothing"));
}

TEST_F(StoreLinkTest, TierOfAnOffloadedSessionIsWhereItsPagesAre) {
  AddWorker("w1");
  MakeStored("s");
  ASSERT_TRUE(stored_->store().Put({{store::MakeNamedPage(1)}}).ok());
  ASSERT_THAT(Sync(*Get("s")), IsOk());
  ASSERT_THAT(Offload("s"), IsOk());
  EXPECT_EQ(Get("s")->tier(), v1::TIER_HOST);
  StartStore();  // its memory is empty now
  Eventually([&] { return Get("s")->tier() == v1::TIER_DISK; }, "it is on disk");
  EXPECT_EQ(List()["s"].tier(), v1::TIER_DISK);
  ASSERT_THAT(Restore("s"), IsOk());
  EXPECT_EQ(Get("s")->tier(), v1::TIER_DEVICE);
}

TEST_F(DeletionTest, WithoutAStoreOrphansCannotBeListed) {
  v1::ListOrphansResponse response;
  const absl::Status status = rpc::FromGrpc(admin_->ListOrphans(Context().get(), {}, &response));
  EXPECT_THAT(status, StatusIs(kFailedPrecondition, "--store"));
  EXPECT_EQ(rpc::ReasonOf(status), "store_not_given");
  v1::StoreStatus store;
  EXPECT_EQ(rpc::ReasonOf(rpc::FromGrpc(admin_->GetStoreStatus(Context().get(), {}, &store))),
            "store_not_given");
  const auto context = Context();
  const auto reader = admin_->VerifyStore(context.get(), {});
  v1::VerifyProgress progress;
  EXPECT_FALSE(reader->Read(&progress));
  EXPECT_EQ(rpc::ReasonOf(rpc::FromGrpc(reader->Finish())), "store_not_given");
}

}  // namespace
}  // namespace lexico::coord

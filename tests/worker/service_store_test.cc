// A store that hangs, is full or refuses pages, and what the sessions of a worker feel of it.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/worker/service_fixture.h"

namespace lexico::worker {
namespace {

class ServiceStoreTest : public testing::Test {
 protected:
  void Open(const std::string& id, const std::string& profile = "") {
    ASSERT_THAT(worker_.Open(id, 1, "", 0, profile), IsOk());
  }
  bool IsStored(const std::string& id) {
    if (!store_.HasManifest(id)) return false;
    const auto has = store_.HasPages(store_.ManifestOf(id).page_keys, absl::InfiniteFuture());
    return has.ok() && std::count(has->begin(), has->end(), false) == 0;
  }
  // Sealed pages of a session, all layers'.
  int64_t PagesOf(const std::string& id) {
    return worker_.Describe(id, 1)->n_sealed_tokens() / base::kPageTokens *
           EmbeddedModel().transformer->config().n_layers;
  }
  double BehindGauge() { return worker_.metrics().Gauge("lexico_pages_behind").Value(); }

  FakeStoreClient store_;
  TestWorker worker_{"w1", &store_};
};

const auto kRefuseDense = [](const store::PageHeader& header) {
  return header.shape.kind == store::PageKind::kDense
             ? absl::FailedPreconditionError("of a newer version")
             : absl::OkStatus();
};

TEST_F(ServiceStoreTest, PagesThatAreRefusedHoldUpNoOtherSession) {
  store_.Refuse(kRefuseDense);
  Open("refused", "dense");
  ASSERT_THAT(worker_.Append("refused", 1, Document()), IsOk());
  const int64_t n_refused = PagesOf("refused");
  ASSERT_GT(n_refused, 0);
  Open("other");
  ASSERT_THAT(worker_.Append("other", 1, Document()), IsOk());
  EXPECT_TRUE(Eventually([&] { return IsStored("other"); }));
  EXPECT_TRUE(Eventually([&] { return worker_.writer().pages_behind() == n_refused; }));
  EXPECT_EQ(BehindGauge(), static_cast<double>(n_refused));
  EXPECT_FALSE(IsStored("refused"));
  // Both in one batch: what comes while the store is away.
  store_.Fail(absl::UnavailableError("connection refused"));
  ASSERT_THAT(worker_.Append("refused", 1, Document()), IsOk());
  ASSERT_THAT(worker_.Append("other", 1, Document()), IsOk());
  EXPECT_EQ(worker_.writer().pages_behind(),
            PagesOf("refused") + PagesOf("other") - n_refused);  // of equal documents
  store_.Fail(absl::OkStatus());
  EXPECT_TRUE(Eventually(
      [&] { return IsStored("other") && worker_.writer().pages_behind() == PagesOf("refused"); }));
  // Tried again until the store takes them.
  store_.Refuse(nullptr);
  EXPECT_TRUE(
      Eventually([&] { return IsStored("refused") && worker_.writer().pages_behind() == 0; }));
  EXPECT_EQ(BehindGauge(), 0);
}

TEST_F(ServiceStoreTest, SyncsGoOnWhileTheQueueIsRefused) {
  Open("s");
  ASSERT_THAT(worker_.Append("s", 1, "A short text."), IsOk());
  ASSERT_TRUE(IsStored("s"));
  Open("large");
  store_.Fail(absl::UnavailableError("connection refused"));
  ASSERT_THAT(worker_.Append("s", 1, "And more."), IsOk());  // to be synced
  ASSERT_THAT(worker_.Append("large", 1, Document()), IsOk());
  store_.Refuse([](const store::PageHeader&) { return absl::ResourceExhaustedError("full"); });
  store_.Fail(absl::OkStatus());
  EXPECT_TRUE(Eventually([&] {
    const auto session = worker_.Describe("s", 1);
    return session.ok() && session->n_durable_tokens() == session->n_tokens();
  }));
  EXPECT_EQ(worker_.writer().pages_behind(), PagesOf("large"));
  store_.Refuse(nullptr);
  EXPECT_TRUE(
      Eventually([&] { return IsStored("large") && worker_.writer().pages_behind() == 0; }));
}

TEST_F(ServiceStoreTest, PagesOfADroppedSessionAreNotWaitedFor) {
  store_.Refuse(kRefuseDense);
  Open("refused", "dense");
  ASSERT_THAT(worker_.Append("refused", 1, Document()), IsOk());
  v1::ReleaseRequest request;
  request.mutable_session()->set_session_id("refused");
  request.mutable_session()->set_epoch(1);
  ASSERT_THAT(worker_.Call(&v1::WorkerService::Stub::Release, request), IsOk());
  EXPECT_TRUE(Eventually([&] { return worker_.writer().pages_behind() == 0; }));
}

TEST_F(ServiceStoreTest, AStoreThatHangsDelaysOneAnswerAndNotTheNext) {
  Open("s");
  store_.Fail(absl::DeadlineExceededError("no answer for 10s"));
  ASSERT_THAT(worker_.Append("s", 1, "A short text."), IsOk());
  EXPECT_EQ(store_.n_commits(), 1);
  ASSERT_THAT(Generate(worker_, MakeRun("s", 1, 3)).status, IsOk());
  ASSERT_THAT(worker_.Append("s", 1, "And more."), IsOk());
  EXPECT_EQ(store_.n_commits(), 1);
  const auto offloaded = worker_.Offload("s", 1);
  EXPECT_THAT(offloaded, StatusIs(StatusCode::kUnavailable, "does not answer in time"));
  EXPECT_EQ(rpc::ReasonOf(offloaded.status()), "store_unavailable");
  EXPECT_GT(rpc::RetryAfterOf(offloaded.status()), absl::ZeroDuration());
  store_.Fail(absl::OkStatus());
  ASSERT_TRUE(Eventually([&] {
    const auto session = worker_.Describe("s", 1);
    return session.ok() && session->n_durable_tokens() == session->n_tokens();
  }));
  // Before its client hears of it, as ever.
  const auto appended = worker_.Append("s", 1, "The end.");
  ASSERT_THAT(appended, IsOk());
  EXPECT_EQ(appended->session().n_durable_tokens(), appended->session().n_tokens());
}

}  // namespace
}  // namespace lexico::worker

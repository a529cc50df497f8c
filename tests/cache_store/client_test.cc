// A worker's client against a whole store in this process.
#include "cache_store/client/client.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "cache_store/server/store_server.h"
#include "proto/base/limits.h"
#include "proto/rpc/status_map.h"
#include "tests/cache_store/page_factory.h"

namespace lexico::store {
namespace {

absl::Time Soon() { return absl::Now() + absl::Seconds(20); }

class ClientTest : public testing::Test {
 protected:
  ClientTest() {
    options_.address = "127.0.0.1:0";
    options_.bulk_address = "127.0.0.1:0";
    options_.store.data_dir = dir_.path() + "/data";
    options_.store.host_bytes = 4u << 20;
    options_.store.disk_bytes = 64u << 20;
    options_.store.reserve_bytes = 0;
    options_.store.faults = &faults_;
  }
  // A restart keeps the gRPC port, as a service's address would.
  void Start() {
    server_.reset();
    auto server = StoreServer::Start(options_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    options_.address = "127.0.0.1:" + std::to_string(server_->port());
    if (client_ == nullptr) {
      auto client = Client::Create({.address = options_.address}, &metrics_);
      ASSERT_TRUE(client.ok()) << client.status();
      client_ = *std::move(client);
    }
  }
  absl::Status Put(uint64_t begin, uint64_t end) {
    std::vector<TestPage> pages;
    for (uint64_t n = begin; n < end; ++n) pages.push_back(MakePage(KeyOf(n)));
    std::vector<PageOut> out;
    for (const TestPage& page : pages) out.push_back({page.encoded, page.payload});
    return client_->PutPages(out, Soon());
  }
  // The page's status after GetPages.
  absl::Status Get(uint64_t n) {
    std::vector<uint8_t> payload(120);
    PageIn in{.expected = {.key = KeyOf(n), .shape = CodeShape()}, .payload = payload};
    const absl::Status status = client_->GetPages({&in, 1}, Soon());
    if (!status.ok()) return status;
    if (in.status.ok()) {
      EXPECT_EQ(payload, MakePage(KeyOf(n)).payload);
      EXPECT_EQ(in.header.relative_error_k, 0.25f);
    }
    return in.status;
  }
  absl::Status PutManifest(const std::string& id, uint64_t epoch, std::vector<uint64_t> pages) {
    return client_->PutManifest(id, epoch, MakeManifestBytes(id, epoch, pages), Soon());
  }

  TempDir dir_;
  base::FaultInjector faults_;
  base::Metrics metrics_{"worker"};
  StoreServerOptions options_;
  std::unique_ptr<StoreServer> server_;
  std::unique_ptr<Client> client_;
};

TEST_F(ClientTest, PagesAndManifestsSurviveARestartOfTheStore) {
  Start();
  ASSERT_TRUE(Put(0, 500).ok());
  ASSERT_TRUE(PutManifest("session", 3, {1, 2}).ok());
  Start();  // the bulk plane comes back on another port
  EXPECT_TRUE(Get(0).ok());
  EXPECT_TRUE(Get(499).ok());
  EXPECT_TRUE(absl::IsNotFound(Get(500)));
  const auto manifest = client_->GetManifest("session", Soon());
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->epoch, 3u);
  EXPECT_EQ(manifest->bytes, MakeManifestBytes("session", 3, {1, 2}));
}

TEST_F(ClientTest, AManifestLargerThanAMessageTravelsInPieces) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "400,000 keys take three minutes there, and one thread after the other has them";
#endif
  Start();
  std::vector<uint64_t> pages(400000, 1);
  const std::string bytes = MakeManifestBytes("session", 1, pages);
  ASSERT_GT(bytes.size(), 2 * base::kMessageBytesMax);
  ASSERT_TRUE(client_->PutManifest("session", 1, bytes, Soon()).ok());
  const auto manifest = client_->GetManifest("session", Soon());
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->bytes, bytes);
}

TEST_F(ClientTest, AStaleEpochIsAbortedWithItsReason) {
  Start();
  ASSERT_TRUE(PutManifest("session", 3, {}).ok());
  const absl::Status put = PutManifest("session", 2, {});
  EXPECT_TRUE(absl::IsAborted(put)) << put;
  EXPECT_EQ(rpc::ReasonOf(put), "epoch_stale");
  const absl::Status deleted = client_->DeleteManifest("session", 2, Soon());
  EXPECT_TRUE(absl::IsAborted(deleted));
  EXPECT_EQ(rpc::ReasonOf(deleted), "epoch_stale");
  EXPECT_TRUE(client_->DeleteManifest("session", 3, Soon()).ok());
  EXPECT_TRUE(client_->DeleteManifest("session", 3, Soon()).ok());
  EXPECT_TRUE(absl::IsNotFound(client_->GetManifest("session", Soon()).status()));
  const absl::Status late = PutManifest("session", 3, {});
  EXPECT_TRUE(absl::IsNotFound(late)) << late;
  EXPECT_EQ(rpc::ReasonOf(late), "session_deleted");
}

TEST_F(ClientTest, MalformedManifestsAndSessionIdsAreInvalid) {
  Start();
  EXPECT_TRUE(absl::IsInvalidArgument(client_->PutManifest("session", 1, "nonsense", Soon())));
  EXPECT_TRUE(absl::IsInvalidArgument(
      client_->PutManifest("other", 1, MakeManifestBytes("session", 1, {}), Soon())));
  EXPECT_TRUE(absl::IsInvalidArgument(client_->DeleteManifest("", 1, Soon())));
}

TEST_F(ClientTest, SaysWhichPagesAreThere) {
  Start();
  ASSERT_TRUE(Put(0, 3).ok());
  const std::vector<PageKey> keys = {KeyOf(2), KeyOf(9), KeyOf(0)};
  const auto present = client_->HasPages(keys, Soon());
  ASSERT_TRUE(present.ok()) << present.status();
  EXPECT_EQ(*present, std::vector<bool>({true, false, true}));
}

TEST_F(ClientTest, StatusTellsTiersAndCounts) {
  Start();
  ASSERT_TRUE(Put(0, 3).ok());
  ASSERT_TRUE(PutManifest("session", 1, {1}).ok());
  const auto info = client_->GetStatus(Soon());
  ASSERT_TRUE(info.ok()) << info.status();
  ASSERT_EQ(info->tiers.size(), 2u);
  EXPECT_EQ(info->tiers[0].tier, "host");
  EXPECT_EQ(info->tiers[1].tier, "disk");
  EXPECT_EQ(info->tiers[1].n_pages, 3u);
  EXPECT_EQ(info->n_manifests, 1u);
  EXPECT_EQ(info->bulk_port, server_->bulk_port());
}

TEST_F(ClientTest, AStoreThatIsDownIsUnavailableWithARetryTimeAndComesBack) {
  Start();
  ASSERT_TRUE(Put(0, 1).ok());
  server_.reset();
  for (const absl::Status& status :
       {Put(1, 2), Get(0), PutManifest("session", 1, {}), client_->GetStatus(Soon()).status()}) {
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_GT(rpc::RetryAfterOf(status), absl::ZeroDuration());
  }
  Start();
  absl::Status status;
  for (int i = 0; i < 200; ++i) {
    status = Put(1, 2);
    if (status.ok()) break;
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_TRUE(Get(0).ok());
}

TEST_F(ClientTest, AFullDiskIsResourceExhaustedWithARetryTimeAndNothingIsLost) {
  Start();
  ASSERT_TRUE(Put(0, 10).ok());
  faults_.Set("disk.space", absl::ResourceExhaustedError("injected"), 1);
  const absl::Status status = Put(10, 20);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(rpc::ReasonOf(status), "store_full");
  EXPECT_GT(rpc::RetryAfterOf(status), absl::ZeroDuration());
  EXPECT_NE(status.message().find("0 bytes free"), std::string::npos) << status;
  EXPECT_TRUE(Get(5).ok());
  EXPECT_TRUE(PutManifest("session", 1, {1}).ok());
  EXPECT_TRUE(Put(10, 20).ok());
}

TEST_F(ClientTest, APageDamagedOnDiskIsDataLossThenNotFoundAndCanBePutAgain) {
  options_.store.host_bytes = 1;  // every read comes from the disk
  Start();
  ASSERT_TRUE(Put(0, 3).ok());
  const auto segment =
      std::filesystem::directory_iterator(options_.store.data_dir + "/segments")->path();
  {
    std::fstream file(segment, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(64 + 256 + 128 + 7);
    file.put('\x55');
    file.put('\x2a');
  }
  const absl::Status status = Get(1);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_NE(status.message().find(segment.string()), std::string::npos) << status;
  EXPECT_TRUE(absl::IsNotFound(Get(1)));
  EXPECT_TRUE(Get(2).ok());
  EXPECT_EQ(client_->GetStatus(Soon())->n_checksum_failures, 1u);
  ASSERT_TRUE(Put(1, 2).ok());
  EXPECT_TRUE(Get(1).ok());
}

TEST_F(ClientTest, AnotherPageThanExpectedIsFailedPrecondition) {
  Start();
  ASSERT_TRUE(Put(0, 1).ok());
  std::vector<uint8_t> payload(120);
  PageIn in{.expected = {.key = KeyOf(0), .model = FingerprintOf("other")}, .payload = payload};
  ASSERT_TRUE(client_->GetPages({&in, 1}, Soon()).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(in.status)) << in.status;
}

TEST_F(ClientTest, AMalformedAddressIsInvalid) {
  EXPECT_TRUE(absl::IsInvalidArgument(Client::Create({.address = "store"}, nullptr).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      Client::Create({.address = "store:1", .bulk_address = "x"}, nullptr).status()));
}

}  // namespace
}  // namespace lexico::store

// A worker's client against a store that hangs: connections are open, and no byte moves. The store
// is whole and in this process; relays between the two are held.
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "cache_store/client/client.h"
#include "cache_store/server/store_server.h"
#include "tests/cache_store/page_factory.h"
#include "tests/support/tcp_relay.h"

namespace lexico::store {
namespace {

using tests::TcpRelay;

constexpr absl::Duration kStall = absl::Seconds(1);
// What a call may take that a hung store fails; far below its deadline.
constexpr absl::Duration kSoon = absl::Seconds(6);

class ClientStallTest : public testing::Test {
 protected:
  ClientStallTest() {
    StoreServerOptions options;
    options.address = "127.0.0.1:0";
    options.bulk_address = "127.0.0.1:0";
    options.store.data_dir = dir_.path() + "/data";
    options.store.host_bytes = 64u << 20;
    options.store.disk_bytes = 64u << 20;
    options.store.reserve_bytes = 0;
    server_ = *StoreServer::Start(options);
    control_ = std::make_unique<TcpRelay>(server_->port());
    bulk_ = std::make_unique<TcpRelay>(server_->bulk_port());
    client_ = *Client::Create({.address = AddressOf(*control_),
                               .bulk_address = AddressOf(*bulk_),
                               .stall_timeout = kStall},
                              nullptr);
  }
  static std::string AddressOf(const TcpRelay& relay) {
    return "127.0.0.1:" + std::to_string(relay.port());
  }
  static absl::Time Late() { return absl::Now() + absl::Minutes(5); }
  static PageShape LargeShape() {  // 512 KiB
    return {.kind = PageKind::kDense,
            .dense_type = DenseType::kF32,
            .n_kv_heads = 16,
            .head_dim = 128,
            .page_tokens = 32,
            .n_tokens = 32};
  }
  void Hold(bool is_held) {
    control_->Hold(is_held);
    bulk_->Hold(is_held);
  }
  absl::Status Put(uint64_t begin, uint64_t end, const PageShape& shape = CodeShape()) {
    std::vector<TestPage> pages;
    for (uint64_t n = begin; n < end; ++n) pages.push_back(MakePage(KeyOf(n), shape));
    std::vector<PageOut> out;
    for (const TestPage& page : pages) out.push_back({page.encoded, page.payload});
    return client_->PutPages(out, Late());
  }
  absl::Status Get(uint64_t begin, uint64_t end, const PageShape& shape = CodeShape()) {
    std::vector<std::vector<uint8_t>> payloads(end - begin,
                                               std::vector<uint8_t>(shape.payload_bytes()));
    std::vector<PageIn> pages;
    for (uint64_t n = begin; n < end; ++n) {
      pages.push_back({.expected = {.key = KeyOf(n), .shape = shape},
                       .payload = payloads[n - begin],
                       .header = {},
                       .status = {}});
    }
    absl::Status status = client_->GetPages(pages, Late());
    for (const PageIn& page : pages) status.Update(page.status);
    return status;
  }
  // A manifest of `n_pages` keys; 16 bytes each.
  absl::Status PutManifest(size_t n_pages) {
    const std::vector<uint64_t> pages(n_pages, 1);
    return client_->PutManifest("session", 1, MakeManifestBytes("session", 1, pages), Late());
  }
  // The connection may be given up between two calls; the second is refused at once then.
  template <typename Call>
  void ExpectStall(const char* what, Call call) {
    const absl::Time begin = absl::Now();
    const absl::Status status = call();
    const absl::Duration took = absl::Now() - begin;
    EXPECT_TRUE(absl::IsDeadlineExceeded(status) || absl::IsUnavailable(status))
        << what << ": " << status;
    EXPECT_NE(status.message().find("127.0.0.1:"), std::string::npos) << what << ": " << status;
    EXPECT_LT(took, kSoon) << what;
  }

  TempDir dir_;
  std::unique_ptr<StoreServer> server_;
  std::unique_ptr<TcpRelay> control_;
  std::unique_ptr<TcpRelay> bulk_;
  std::unique_ptr<Client> client_;
};

TEST_F(ClientStallTest, EveryCallFailsSoonAndTheClientLivesOn) {
  ASSERT_TRUE(Put(0, 10).ok());
  ASSERT_TRUE(PutManifest(1).ok());
  Hold(true);
  ExpectStall("PutPages", [&] { return Put(10, 20); });
  Hold(false);
  EXPECT_TRUE(Put(10, 20).ok());
  Hold(true);
  ExpectStall("GetPages", [&] { return Get(0, 10); });
  ExpectStall("HasPages",
              [&] { return client_->HasPages(std::vector{KeyOf(1)}, Late()).status(); });
  ExpectStall("PutManifest", [&] { return PutManifest(1); });
  ExpectStall("PutManifest of many chunks", [&] { return PutManifest(1000000); });
  ExpectStall("GetManifest", [&] { return client_->GetManifest("session", Late()).status(); });
  ExpectStall("DeleteManifest", [&] { return client_->DeleteManifest("session", 1, Late()); });
  ExpectStall("GetStatus", [&] { return client_->GetStatus(Late()).status(); });
  Hold(false);
  EXPECT_TRUE(Put(20, 30).ok());
  EXPECT_TRUE(Get(0, 30).ok());
  EXPECT_TRUE(PutManifest(1000000).ok());
}

TEST_F(ClientStallTest, AStoreThatHangsBeforeTheFirstConnectionFailsSoonToo) {
  Hold(true);
  const absl::Time begin = absl::Now();
  const absl::Status put = Put(0, 1);
  EXPECT_TRUE(absl::IsUnavailable(put) || absl::IsDeadlineExceeded(put)) << put;
  const absl::Status manifest = PutManifest(1);
  EXPECT_TRUE(absl::IsUnavailable(manifest) || absl::IsDeadlineExceeded(manifest)) << manifest;
  EXPECT_LT(absl::Now() - begin, 2 * kSoon);
}

TEST_F(ClientStallTest, ASlowMoveTakesAsLongAsItTakes) {
  ASSERT_TRUE(Put(0, 1).ok());  // connected
  bulk_->Slow(16384);           // about 3 MB/s
  absl::Time begin = absl::Now();
  const absl::Status put = Put(100, 116, LargeShape());  // 8 MiB
  ASSERT_TRUE(put.ok()) << put;
  EXPECT_GT(absl::Now() - begin, 2 * kStall);
  begin = absl::Now();
  const absl::Status get = Get(100, 116, LargeShape());
  EXPECT_TRUE(get.ok()) << get;
  EXPECT_GT(absl::Now() - begin, 2 * kStall);
}

TEST_F(ClientStallTest, ASlowManifestTakesAsLongAsItTakes) {
  // What the kernel still holds behind the last chunk passes within this, too.
  constexpr absl::Duration kLongStall = absl::Seconds(3);
  client_ =
      *Client::Create({.address = AddressOf(*control_), .stall_timeout = kLongStall}, nullptr);
  ASSERT_TRUE(client_->GetStatus(Late()).ok());  // connected
  control_->Slow(16384);
  absl::Time begin = absl::Now();
  const absl::Status put = PutManifest(400000);  // 8 MB
  ASSERT_TRUE(put.ok()) << put;
  EXPECT_GT(absl::Now() - begin, kLongStall);
  begin = absl::Now();
  const auto get = client_->GetManifest("session", Late());
  EXPECT_TRUE(get.ok()) << get.status();
  EXPECT_GT(absl::Now() - begin, kLongStall);
}

}  // namespace
}  // namespace lexico::store

// The bulk plane over real sockets: frames as the specification says, hostile peers, and a client
// against a server whose handler the test controls.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "cache_store/transfer/bulk_client.h"
#include "cache_store/transfer/bulk_server.h"
#include "cache_store/transfer/frame.h"
#include "proto/base/bytes.h"
#include "proto/base/limits.h"
#include "tests/cache_store/page_factory.h"

namespace lexico::store {
namespace {

absl::Time In(int seconds) { return absl::Now() + absl::Seconds(seconds); }

// Pages in a map.
class MapHandler : public BulkHandler {
 public:
  absl::Status PutPages(std::vector<NamedPage> pages) override {
    absl::MutexLock lock(&mutex_);
    if (!put_status_.ok()) return put_status_;
    for (NamedPage& named : pages) pages_[named.key] = std::move(named.page);
    return absl::OkStatus();
  }
  std::vector<absl::StatusOr<PagePtr>> GetPages(std::span<const PageKey> keys) override {
    absl::SleepFor(absl::Milliseconds(delay_ms_.load()));
    absl::MutexLock lock(&mutex_);
    std::vector<absl::StatusOr<PagePtr>> found;
    for (const PageKey& key : keys) {
      const auto it = pages_.find(key);
      found.push_back(it == pages_.end() ? absl::StatusOr<PagePtr>(absl::NotFoundError("no page"))
                                         : it->second);
    }
    return found;
  }
  void OnRefused(const absl::Status& why) override {
    absl::MutexLock lock(&mutex_);
    refused_.push_back(why);
  }

  size_t n_pages() {
    absl::MutexLock lock(&mutex_);
    return pages_.size();
  }
  std::vector<absl::Status> WaitForRefusal() {
    const auto any = [&] { return !refused_.empty(); };
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(&any), absl::Seconds(10));
    return refused_;
  }

  std::atomic<int> delay_ms_{0};
  absl::Mutex mutex_;
  absl::Status put_status_;
  std::map<PageKey, PagePtr> pages_;
  std::vector<absl::Status> refused_;
};

// A peer that sends whatever bytes it likes.
class RawPeer {
 public:
  explicit RawPeer(int port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    const timeval timeout{.tv_sec = 10, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  }
  ~RawPeer() { close(fd_); }

  void Send(const std::string& bytes) { send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL); }
  std::string Receive(size_t size) {
    std::string bytes(size, '\0');
    const ssize_t count = recv(fd_, bytes.data(), size, MSG_WAITALL);
    bytes.resize(count > 0 ? static_cast<size_t>(count) : 0);
    return bytes;
  }
  // True when the other side ended the connection.
  bool Ended() {
    char byte;
    ssize_t count;
    while ((count = recv(fd_, &byte, 1, 0)) > 0) {
    }
    return count == 0 || errno == ECONNRESET;
  }
  void Greet() {
    Send(EncodeFrame({.type = FrameType::kHello}, EncodeHelloTable(1, 1)));
    EXPECT_EQ(Receive(kFrameHeaderBytes + 10).substr(0, 4), "LXBK");
  }

 private:
  int fd_;
};

class BulkTest : public testing::Test {
 protected:
  void Start(absl::Duration stall_timeout = absl::Seconds(30)) {
    auto server = BulkServer::Start(
        {.address = "127.0.0.1:0", .n_handler_threads = 2, .stall_timeout = stall_timeout},
        &handler_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    client_->SetAddress("127.0.0.1:" + std::to_string(server_->port()));
  }
  absl::Status Put(const std::vector<TestPage>& pages, int seconds = 20) {
    std::vector<BulkOut> out;
    for (const TestPage& page : pages) out.push_back({page.header.key, page.encoded, page.payload});
    return client_->Put(out, In(seconds));
  }
  // The payload, or the page's status.
  absl::StatusOr<std::vector<uint8_t>> Get(uint64_t n, size_t payload_bytes = 120,
                                           int seconds = 20) {
    std::vector<uint8_t> payload(payload_bytes);
    BulkIn in{.key = KeyOf(n), .payload = payload, .header = {}, .status = {}};
    const absl::Status status = client_->Get({&in, 1}, In(seconds));
    if (!status.ok()) return status;
    if (!in.status.ok()) return in.status;
    return payload;
  }
  static PageShape LargeShape() {  // 6 MiB
    return {.kind = PageKind::kDense,
            .dense_type = DenseType::kF32,
            .n_kv_heads = 128,
            .head_dim = 192,
            .page_tokens = 32,
            .n_tokens = 32};
  }
  // A well-behaved peer is served while the test's peer misbehaves.
  void ExpectServing() {
    EXPECT_TRUE(Put({MakePage(KeyOf(7777))}).ok());
    EXPECT_TRUE(Get(7777).ok());
  }
  void ExpectCutOff(const std::string& bytes, const char* why) {
    RawPeer peer(server_->port());
    peer.Greet();
    peer.Send(bytes);
    EXPECT_TRUE(peer.Ended()) << why;
    EXPECT_NE(handler_.WaitForRefusal().back().message().find(why), std::string::npos)
        << handler_.refused_.back();
    ExpectServing();
  }

  MapHandler handler_;
  std::unique_ptr<BulkServer> server_;
  std::unique_ptr<BulkClient> client_ = BulkClient::Create({.frame_bytes = 1u << 20});
};

TEST_F(BulkTest, PagesComeBackAsTheyWereSent) {
  Start();
  std::vector<TestPage> pages;
  for (uint64_t n = 0; n < 3000; ++n) pages.push_back(MakePage(KeyOf(n)));  // several frames
  pages.push_back(MakePage(KeyOf(5000), LargeShape()));
  ASSERT_TRUE(Put(pages).ok());
  EXPECT_EQ(handler_.n_pages(), 3001u);
  std::vector<std::vector<uint8_t>> payloads;
  std::vector<BulkIn> in;
  for (const TestPage& page : pages) payloads.emplace_back(page.payload.size());
  for (size_t i = 0; i < pages.size(); ++i) {
    in.push_back({.key = pages[i].header.key, .payload = payloads[i], .header = {}, .status = {}});
  }
  ASSERT_TRUE(client_->Get(in, In(20)).ok());
  for (size_t i = 0; i < pages.size(); ++i) {
    ASSERT_TRUE(in[i].status.ok()) << in[i].status;
    ASSERT_EQ(payloads[i], pages[i].payload);
    ASSERT_EQ(in[i].header, pages[i].encoded);
  }
}

TEST_F(BulkTest, EachPageOfAGetHasItsOwnAnswer) {
  Start();
  ASSERT_TRUE(Put({MakePage(KeyOf(1)), MakePage(KeyOf(2))}).ok());
  std::vector<std::vector<uint8_t>> payloads(3, std::vector<uint8_t>(120));
  payloads[1].resize(119);
  std::vector<BulkIn> in;
  for (uint64_t n = 1; n <= 3; ++n) {
    in.push_back({.key = KeyOf(n), .payload = payloads[n - 1], .header = {}, .status = {}});
  }
  ASSERT_TRUE(client_->Get(in, In(20)).ok());
  EXPECT_TRUE(in[0].status.ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(in[1].status)) << in[1].status;
  EXPECT_TRUE(absl::IsNotFound(in[2].status)) << in[2].status;
  EXPECT_EQ(in[2].status.message(), "no page");
}

TEST_F(BulkTest, ARefusalOfTheStoreReachesTheCaller) {
  Start();
  handler_.put_status_ = absl::ResourceExhaustedError("full: 1 of 1 bytes");
  const absl::Status status = Put({MakePage(KeyOf(1))});
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(status.message(), "full: 1 of 1 bytes");
}

TEST_F(BulkTest, ADamagedOrMisnamedPageIsRefusedAndNotStored) {
  Start();
  TestPage damaged = MakePage(KeyOf(1));
  damaged.payload[5] ^= 1;
  EXPECT_TRUE(absl::IsDataLoss(Put({MakePage(KeyOf(2)), damaged})));
  TestPage misnamed = MakePage(KeyOf(1));
  misnamed.header.key = KeyOf(3);
  EXPECT_TRUE(absl::IsFailedPrecondition(Put({misnamed})));
  EXPECT_EQ(handler_.n_pages(), 0u);
  EXPECT_EQ(handler_.WaitForRefusal().size(), 2u);
}

TEST_F(BulkTest, WithoutAServerCallsAreUnavailableAtOnceAndRecoverWhenItComes) {
  client_->SetAddress("127.0.0.1:1");
  const absl::Time start = absl::Now();
  EXPECT_TRUE(absl::IsUnavailable(Put({MakePage(KeyOf(1))})));
  EXPECT_TRUE(absl::IsUnavailable(Get(1).status()));
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  Start();
  absl::SleepFor(absl::Milliseconds(250));  // the retry time
  EXPECT_TRUE(Put({MakePage(KeyOf(1))}).ok());
}

TEST_F(BulkTest, ARestartedServerIsFoundAgain) {
  Start();
  ASSERT_TRUE(Put({MakePage(KeyOf(1))}).ok());
  server_.reset();
  EXPECT_TRUE(absl::IsUnavailable(Get(1).status()));
  Start();
  absl::Status status;
  for (int i = 0; i < 100; ++i) {
    status = Put({MakePage(KeyOf(1))});
    if (status.ok()) break;
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(BulkTest, ASlowAnswerIsDeadlineExceededAndTheNextCallSucceeds) {
  Start();
  ASSERT_TRUE(Put({MakePage(KeyOf(1))}).ok());
  handler_.delay_ms_ = 1500;
  EXPECT_TRUE(absl::IsDeadlineExceeded(Get(1, 120, 0).status()));
  std::vector<uint8_t> payload(120);
  BulkIn in{.key = KeyOf(1), .payload = payload, .header = {}, .status = {}};
  EXPECT_TRUE(
      absl::IsDeadlineExceeded(client_->Get({&in, 1}, absl::Now() + absl::Milliseconds(100))));
  handler_.delay_ms_ = 0;
  EXPECT_TRUE(Get(1).ok());
}

TEST_F(BulkTest, ManyThreadsShareOneConnection) {
  Start();
  std::atomic<int> n_failed = 0;
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < 30; ++i) {
        const uint64_t n = 1000 * t + i;
        const TestPage page = MakePage(KeyOf(n));
        if (!Put({page}).ok()) ++n_failed;
        const auto payload = Get(n);
        if (!payload.ok() || *payload != page.payload) ++n_failed;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(n_failed, 0);
  EXPECT_EQ(server_->n_connections(), 1);
}

TEST_F(BulkTest, HostileFramesEndTheirConnectionAndNothingElse) {
  Start();
  const std::string get = EncodeGetTable(std::vector{KeyOf(1)});
  const auto frame = [](FrameHeader header, const std::string& table) {
    return EncodeFrame(header, table);
  };
  ExpectCutOff(std::string(40, 'x'), "LXBK");
  ExpectCutOff("GET / HTTP/1.1\r\nHost: store.example\r\nAccept: */*\r\n\r\n", "LXBK");
  ExpectCutOff(frame({.type = static_cast<FrameType>(9)}, ""), "type is 9");
  ExpectCutOff(frame({.type = FrameType::kGetReply}, ""), "a client sent type 6");
  ExpectCutOff(frame({.type = FrameType::kHello}, EncodeHelloTable(1, 1)), "a client sent type 1");
  ExpectCutOff(frame({.type = FrameType::kGet, .n_items = 2}, get), "table_bytes");
  ExpectCutOff(frame({.type = FrameType::kGet, .n_items = 5000}, get), "n_items");
  ExpectCutOff(frame({.type = FrameType::kGet, .n_items = 1, .data_bytes = 1}, get), "data_bytes");
  ExpectCutOff(frame({.version = 2, .type = FrameType::kGet, .n_items = 1}, get), "version");
  std::string bad_crc = frame({.type = FrameType::kGet, .n_items = 1}, get);
  bad_crc.back() ^= 1;
  ExpectCutOff(bad_crc, "crc32c");
  const std::vector<PutItem> item = {{KeyOf(1), 200}};
  ExpectCutOff(
      frame({.type = FrameType::kPut, .n_items = 1, .data_bytes = 201}, EncodePutTable(item)),
      "data_bytes");
  ExpectCutOff(frame({.type = FrameType::kPut, .n_items = 1, .data_bytes = uint64_t{1} << 40}, ""),
               "data_bytes");
  const std::vector<PutItem> tiny = {{KeyOf(1), 5}};
  ExpectCutOff(
      frame({.type = FrameType::kPut, .n_items = 1, .data_bytes = 5}, EncodePutTable(tiny)),
      "bytes of a page");
}

TEST_F(BulkTest, EveryTruncatedOrFlippedPutIsSurvived) {
  Start(absl::Milliseconds(200));
  const TestPage page = MakePage(KeyOf(1));
  const std::vector<PutItem> items = {{KeyOf(1), 248}};
  const std::string good = EncodeFrame({.type = FrameType::kPut, .n_items = 1, .data_bytes = 248},
                                       EncodePutTable(items)) +
                           page.bytes();
  for (size_t i = 0; i < good.size(); i += 7) {
    RawPeer cut(server_->port());
    cut.Greet();
    cut.Send(good.substr(0, i));
    RawPeer flipped(server_->port());
    flipped.Greet();
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 4);
    flipped.Send(bad);
  }
  ExpectServing();
  EXPECT_EQ(handler_.n_pages(), 1u);  // ExpectServing's own
}

TEST_F(BulkTest, AConnectionWithoutACommonVersionIsToldSo) {
  Start();
  RawPeer peer(server_->port());
  peer.Send(EncodeFrame({.version = 9, .type = FrameType::kHello}, EncodeHelloTable(7, 9)));
  const std::string head = peer.Receive(kFrameHeaderBytes);
  ASSERT_EQ(head.size(), kFrameHeaderBytes);
  const auto header = DecodeFrameHeader(base::AsBytes(head));
  ASSERT_TRUE(header.ok()) << header.status();
  const std::string table = peer.Receive(header->table_bytes);
  const absl::Status status = DecodeHelloReplyTable(base::AsBytes(table));
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(status.message().find("7 to 9"), std::string::npos) << status;
  EXPECT_TRUE(peer.Ended());
}

TEST_F(BulkTest, APeerThatStopsInTheMiddleIsCutOff) {
  Start(absl::Milliseconds(200));
  RawPeer silent(server_->port());
  RawPeer half(server_->port());
  half.Greet();
  half.Send("LXBK");
  EXPECT_TRUE(half.Ended());
  EXPECT_TRUE(silent.Ended());
  ExpectServing();
}

TEST_F(BulkTest, APeerThatDoesNotReadItsRepliesIsCutOffAndBoundsMemory) {
  Start(absl::Milliseconds(300));
  ASSERT_TRUE(Put({MakePage(KeyOf(1), LargeShape())}).ok());
  RawPeer peer(server_->port());
  peer.Greet();
  const std::string get =
      EncodeFrame({.type = FrameType::kGet, .n_items = 1}, EncodeGetTable(std::vector{KeyOf(1)}));
  for (int i = 0; i < 200; ++i) peer.Send(get);  // 1.2 GiB of replies, never read
  for (int i = 0; i < 100 && server_->n_connections() > 1; ++i) {
    absl::SleepFor(absl::Milliseconds(50));
  }
  EXPECT_EQ(server_->n_connections(), 1);
}

TEST_F(BulkTest, AReplyIsKeptWithinItsLimit) {
  Start();
  std::vector<TestPage> pages;
  for (uint64_t n = 1; n <= 4; ++n) pages.push_back(MakePage(KeyOf(n), LargeShape()));
  ASSERT_TRUE(Put(pages).ok());
  RawPeer peer(server_->port());
  peer.Greet();
  const std::vector<PageKey> keys = {KeyOf(1), KeyOf(2), KeyOf(3), KeyOf(4)};
  peer.Send(EncodeFrame({.type = FrameType::kGet, .n_items = 4}, EncodeGetTable(keys)));
  const std::string head = peer.Receive(kFrameHeaderBytes);
  const auto header = DecodeFrameHeader(base::AsBytes(head));
  ASSERT_TRUE(header.ok()) << header.status();
  const std::string table = peer.Receive(header->table_bytes);
  const auto items = DecodeGetReplyTable(*header, base::AsBytes(table));
  ASSERT_TRUE(items.ok()) << items.status();
  EXPECT_EQ((*items)[2].code, absl::StatusCode::kOk);
  EXPECT_EQ((*items)[3].code, absl::StatusCode::kResourceExhausted);
}

TEST_F(BulkTest, APortThatIsTakenOrAnAddressThatIsNoneIsRefused) {
  Start();
  const std::string taken = "127.0.0.1:" + std::to_string(server_->port());
  const auto second = BulkServer::Start({.address = taken}, &handler_);
  EXPECT_TRUE(absl::IsUnavailable(second.status())) << second.status();
  EXPECT_NE(second.status().message().find(taken), std::string::npos);
  for (const char* address : {"", "localhost", ":1", "localhost:", "localhost:http"}) {
    EXPECT_TRUE(
        absl::IsInvalidArgument(BulkServer::Start({.address = address}, &handler_).status()))
        << address;
  }
}

}  // namespace
}  // namespace lexico::store

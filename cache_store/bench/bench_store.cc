// lexico-bench-store: what the store reaches, each figure beside the limit that this machine gives
// it in the same run.
//
//   host put/get     pages into and out of the host tier     limit: memcpy of the same pages
//   disk put         batches, acknowledged when durable      limit: write + fdatasync of the same
//   batches disk get         pages read and verified, page cache     limit: pread of the same bytes
//   rocksdb put/get  the same pages as RocksDB values        the design not taken (docs/adr/0005)
//   bulk put/get     batches through the bulk plane          limit: the same bytes over a plain
//   socket
//
// Every line is the best of three runs over the same pages; GB/s counts page bytes.
#include <fcntl.h>
#include <fmt/format.h>
#include <rocksdb/db.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <thread>
#include <vector>

#include "cache_store/format/page.h"
#include "cache_store/tiers/tiered_store.h"
#include "cache_store/transfer/bulk_client.h"
#include "cache_store/transfer/bulk_server.h"
#include "cache_store/transfer/socket.h"
#include "proto/base/check.h"
#include "proto/base/options.h"

namespace lexico::store {
namespace {

constexpr int kRuns = 3;
// A page of a layer with 8 KV heads at sparsity 16: 24,704 bytes.
constexpr PageShape kShape = {.kind = PageKind::kCodes,
                              .n_kv_heads = 8,
                              .head_dim = 128,
                              .page_tokens = 32,
                              .n_tokens = 32,
                              .sparsity_k = 16,
                              .sparsity_v = 16,
                              .n_atoms = 4096};
constexpr size_t kPageBytes = kPageHeaderBytes + 24576;
constexpr size_t kBatchPages = 160;  // 4 MB

std::vector<NamedPage> MakePages(size_t n_pages) {
  std::vector<NamedPage> pages;
  std::vector<uint8_t> payload(kShape.payload_bytes());
  for (size_t i = 0; i < n_pages; ++i) {
    base::FingerprintBuilder builder;
    const PageKey key = builder.AddInt(i).Finish();
    std::fill(payload.begin(), payload.end(), static_cast<uint8_t>(i % 15));
    const EncodedHeader header = EncodeHeader({.shape = kShape, .key = key}, payload);
    auto page = std::make_shared<PageBuffer>(kPageBytes);
    std::memcpy(page->mutable_bytes().data(), header.data(), header.size());
    std::memcpy(page->mutable_bytes().data() + kPageHeaderBytes, payload.data(), payload.size());
    pages.push_back({key, std::move(page)});
  }
  return pages;
}

using Batches = std::vector<std::span<const NamedPage>>;

Batches Split(std::span<const NamedPage> pages) {
  Batches batches;
  for (size_t i = 0; i < pages.size(); i += kBatchPages) {
    batches.push_back(pages.subspan(i, std::min(kBatchPages, pages.size() - i)));
  }
  return batches;
}

// Seconds of the fastest of kRuns runs; `prepare` is not timed.
double Best(
    const std::function<void()>& run, const std::function<void()>& prepare = [] {}) {
  double best = 1e9;
  for (int i = 0; i < kRuns; ++i) {
    prepare();
    const auto start = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count());
  }
  return best;
}

void Print(const char* what, size_t n_pages, double seconds, double limit_seconds) {
  const double bytes = static_cast<double>(n_pages * kPageBytes);
  fmt::print("{:<16} {:>8.2f} GB/s {:>10.1f} us/batch", what, bytes / seconds / 1e9,
             seconds / (static_cast<double>(n_pages) / kBatchPages) * 1e6);
  if (limit_seconds > 0) {
    fmt::print("   limit {:>6.2f} GB/s, {:.0f} % of it", bytes / limit_seconds / 1e9,
               100 * limit_seconds / seconds);
  }
  fmt::print("\n");
  std::fflush(stdout);
}

void Check(const absl::Status& status) {
  if (!status.ok()) base::CheckFailed(__FILE__, __LINE__, std::string(status.message()));
}

void BenchHost(std::span<const NamedPage> pages) {
  std::vector<uint8_t> target(pages.size() * kPageBytes, 1);
  const double memcpy_seconds = Best([&] {
    for (size_t i = 0; i < pages.size(); ++i) {
      std::memcpy(target.data() + i * kPageBytes, pages[i].page->bytes().data(), kPageBytes);
    }
  });
  std::unique_ptr<HostTier> tier;
  const absl::Time now = absl::Now();
  const auto fresh = [&] { tier = std::make_unique<HostTier>(uint64_t{1} << 40, true); };
  // A page that arrives is copied once, from the socket into its buffer: counted here.
  const double put = Best(
      [&] {
        for (const auto& batch : Split(pages)) {
          std::vector<NamedPage> copies;
          for (const NamedPage& named : batch) {
            auto page = std::make_shared<PageBuffer>(kPageBytes);
            std::memcpy(page->mutable_bytes().data(), named.page->bytes().data(), kPageBytes);
            copies.push_back({named.key, std::move(page)});
          }
          Check(tier->Put(copies, now));
        }
      },
      fresh);
  const double get = Best([&] {
    for (size_t i = 0; i < pages.size(); ++i) {
      const auto page = tier->Get(pages[i].key, now);
      std::memcpy(target.data() + i * kPageBytes, (*page)->bytes().data(), kPageBytes);
    }
  });
  Print("host put", pages.size(), put, memcpy_seconds);
  Print("host get", pages.size(), get, memcpy_seconds);
}

void BenchDisk(std::span<const NamedPage> pages, const std::string& dir) {
  const std::string raw = dir + "/raw";
  const double write_seconds = Best([&] {
    const int fd = open(raw.c_str(), O_CREAT | O_TRUNC | O_RDWR, 0600);
    for (const auto& batch : Split(pages)) {
      std::string bytes;
      for (const NamedPage& named : batch) {
        bytes.append(reinterpret_cast<const char*>(named.page->bytes().data()), kPageBytes);
      }
      LEXICO_CHECK_EQ(write(fd, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
      LEXICO_CHECK_EQ(fdatasync(fd), 0);
    }
    close(fd);
  });
  std::vector<uint8_t> target(kPageBytes);
  const double read_seconds = Best([&] {
    const int fd = open(raw.c_str(), O_RDONLY);
    for (size_t i = 0; i < pages.size(); ++i) {
      LEXICO_CHECK_EQ(pread(fd, target.data(), kPageBytes, static_cast<off_t>(i * kPageBytes)),
                      static_cast<ssize_t>(kPageBytes));
    }
    close(fd);
  });
  std::filesystem::remove(raw);

  const absl::Time now = absl::Now();
  std::unique_ptr<DiskTier> tier;
  const auto fresh = [&] {
    tier.reset();
    std::filesystem::remove_all(dir + "/tier");
    auto opened = DiskTier::Open({.dir = dir + "/tier", .bytes_max = uint64_t{64} << 30}, now);
    Check(opened.status());
    tier = *std::move(opened);
  };
  const double put = Best(
      [&] {
        for (const auto& batch : Split(pages)) Check(tier->Put(batch, now));
      },
      fresh);
  const double get = Best([&] {
    for (const NamedPage& named : pages) Check(tier->Get(named.key, now).status());
  });
  Print("disk put", pages.size(), put, write_seconds);
  Print("disk get", pages.size(), get, read_seconds);
}

void BenchRocks(std::span<const NamedPage> pages, const std::string& dir) {
  std::unique_ptr<rocksdb::DB> db;
  const auto fresh = [&] {
    db.reset();
    std::filesystem::remove_all(dir + "/rocks");
    rocksdb::Options options;
    options.create_if_missing = true;
    options.compression = rocksdb::kNoCompression;
    options.write_buffer_size = 64u << 20;
    rocksdb::DB* raw = nullptr;
    LEXICO_CHECK(rocksdb::DB::Open(options, dir + "/rocks", &raw).ok());
    db.reset(raw);
  };
  const auto key = [](const NamedPage& named) {
    return rocksdb::Slice(reinterpret_cast<const char*>(named.key.bytes.data()), 16);
  };
  const double put = Best(
      [&] {
        rocksdb::WriteOptions options;
        options.sync = true;
        for (const auto& batch : Split(pages)) {
          rocksdb::WriteBatch writes;
          for (const NamedPage& named : batch) {
            writes.Put(key(named),
                       rocksdb::Slice(reinterpret_cast<const char*>(named.page->bytes().data()),
                                      kPageBytes));
          }
          LEXICO_CHECK(db->Write(options, &writes).ok());
        }
      },
      fresh);
  const double get = Best([&] {
    for (const NamedPage& named : pages) {
      rocksdb::PinnableSlice value;
      LEXICO_CHECK(
          db->Get(rocksdb::ReadOptions(), db->DefaultColumnFamily(), key(named), &value).ok());
    }
  });
  Print("rocksdb put", pages.size(), put, 0);
  Print("rocksdb get", pages.size(), get, 0);
}

// Sends `n_bytes` through a TCP connection on loopback, in pieces of a batch.
double PlainSocketSeconds(size_t n_bytes) {
  asio::io_context io;
  Tcp::acceptor acceptor(io, Tcp::endpoint(asio::ip::address_v4::loopback(), 0));
  Tcp::socket sender(io), receiver(io);
  sender.connect(acceptor.local_endpoint());
  acceptor.accept(receiver);
  std::vector<uint8_t> source(kBatchPages * kPageBytes, 1), target(source.size());
  return Best([&] {
    std::thread thread([&] {
      for (size_t sent = 0; sent < n_bytes; sent += source.size()) {
        for (size_t done = 0; done < source.size();) {
          done += sender.send(asio::buffer(source.data() + done, source.size() - done));
        }
      }
    });
    for (size_t got = 0; got < n_bytes;) {
      got += receiver.receive(asio::buffer(target.data(), std::min(target.size(), n_bytes - got)));
    }
    thread.join();
  });
}

class StoreHandler : public BulkHandler {
 public:
  explicit StoreHandler(TieredStore* store) : store_(store) {}
  absl::Status PutPages(std::vector<NamedPage> pages) override { return store_->Put(pages); }
  std::vector<absl::StatusOr<PagePtr>> GetPages(std::span<const PageKey> keys) override {
    return store_->Get(keys);
  }
  void OnRefused(const absl::Status& why) override { Check(why); }

 private:
  TieredStore* const store_;
};

void BenchBulk(std::span<const NamedPage> pages) {
  const double socket_seconds =
      PlainSocketSeconds(pages.size() / kBatchPages * kBatchPages * kPageBytes);
  base::Metrics metrics("bench");
  std::unique_ptr<TieredStore> store;
  std::unique_ptr<StoreHandler> handler;
  std::unique_ptr<BulkServer> server;
  std::unique_ptr<BulkClient> client;
  const auto fresh = [&] {
    client.reset();
    server.reset();
    store = *TieredStore::Open({.host_bytes = uint64_t{1} << 40}, &metrics);
    handler = std::make_unique<StoreHandler>(store.get());
    server = *BulkServer::Start({.address = "127.0.0.1:0"}, handler.get());
    client = BulkClient::Create({});
    client->SetAddress(fmt::format("127.0.0.1:{}", server->port()));
  };
  const absl::Time deadline = absl::Now() + absl::Minutes(10);
  std::vector<BulkOut> out;
  std::vector<uint8_t> target(pages.size() * kShape.payload_bytes());
  std::vector<BulkIn> in;
  for (size_t i = 0; i < pages.size(); ++i) {
    const auto bytes = pages[i].page->bytes();
    out.push_back({pages[i].key, bytes.first(kPageHeaderBytes), bytes.subspan(kPageHeaderBytes)});
    in.push_back(
        {.key = pages[i].key,
         .payload = std::span(target).subspan(i * kShape.payload_bytes(), kShape.payload_bytes()),
         .header = {},
         .status = {}});
  }
  const double put = Best([&] { Check(client->Put(out, deadline)); }, fresh);
  const double get = Best([&] {
    Check(client->Get(in, deadline));
    for (const BulkIn& page : in) {
      Check(page.status);
      const auto header = DecodeHeader(page.header);
      Check(VerifyPayload(*header, page.payload));
    }
  });
  Print("bulk put", pages.size(), put, socket_seconds);
  Print("bulk get", pages.size(), get, socket_seconds);
}

}  // namespace
}  // namespace lexico::store

int main(int argc, char** argv) {
  std::error_code error;  // no temporary folder: the working directory
  std::string dir = std::filesystem::temp_directory_path(error) / "lexico-bench-store";
  size_t n_pages = 8000;
  CLI::App app("Measures the store's tiers and bulk plane beside the limits of this machine.",
               "lexico-bench-store");
  app.add_option("--dir", dir, "a folder on the disk to be measured; emptied")
      ->capture_default_str();
  app.add_option("--n_pages", n_pages, "pages of 24,704 bytes")
      ->check(CLI::Range(1000, 1000000))
      ->capture_default_str();
  const absl::Status parsed = lexico::base::ParseCommandLine(app, argc, argv);
  if (!parsed.ok()) {
    fmt::print(absl::IsCancelled(parsed) ? stdout : stderr, "{}\n", std::string(parsed.message()));
    return absl::IsCancelled(parsed) ? 0 : 2;
  }
  using namespace lexico::store;  // NOLINT: a program's own main
  std::filesystem::remove_all(dir);
  std::filesystem::create_directories(dir);
  const auto pages = MakePages(n_pages);
  fmt::print("{} pages of {} bytes, batches of {}\n", n_pages, kPageBytes, kBatchPages);
  BenchHost(pages);
  BenchDisk(pages, dir);
  BenchRocks(pages, dir);
  BenchBulk(pages);
  std::filesystem::remove_all(dir);
  return 0;
}

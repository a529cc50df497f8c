#include "cache_store/transfer/bulk_client.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <chrono>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "cache_store/transfer/bulk_session.h"
#include "cache_store/transfer/frame.h"
#include "proto/base/limits.h"

namespace lexico::store {
namespace {

class BulkClientImpl : public BulkClient {
 public:
  explicit BulkClientImpl(const BulkClientOptions& options)
      : options_(options), thread_([this] { io_.run(); }) {}

  ~BulkClientImpl() override {
    asio::post(io_, [this] {
      if (session_ != nullptr) session_->Close(absl::CancelledError("the client ends"));
    });
    work_.reset();
    thread_.join();
  }

  void SetAddress(const std::string& address) override {
    absl::MutexLock lock(&mutex_);
    address_ = address;
  }
  bool connected() const override { return *connected_; }

  absl::Status Put(std::span<const BulkOut> pages, absl::Time deadline) override {
    std::vector<std::unique_ptr<BulkRequest>> requests;
    for (size_t begin = 0; begin < pages.size();) {
      const size_t end = FrameEnd(pages, begin);
      requests.push_back(PutRequest(pages.subspan(begin, end - begin)));
      begin = end;
    }
    return Execute(requests, deadline);
  }

  absl::Status Get(std::span<BulkIn> pages, absl::Time deadline) override {
    std::vector<std::unique_ptr<BulkRequest>> requests;
    for (size_t begin = 0; begin < pages.size();) {
      const size_t end = FrameEnd(pages, begin);
      requests.push_back(GetRequest(pages.subspan(begin, end - begin)));
      begin = end;
    }
    const absl::Status status = Execute(requests, deadline);
    for (const auto& request : requests) {
      const absl::Status answered = request->submitted ? request->status : status;
      if (answered.ok()) continue;
      for (BulkIn& page : request->pages_in) page.status = answered;
    }
    return status;
  }

 private:
  // Pages of one frame: up to frame_bytes, at least one page.
  template <typename Page>
  size_t FrameEnd(std::span<Page> pages, size_t begin) const {
    size_t bytes = 0;
    size_t end = begin;
    for (; end < pages.size() && end - begin < base::kBulkBatchPagesMax; ++end) {
      bytes += kPageHeaderBytes + pages[end].payload.size();
      if (end > begin && bytes > options_.frame_bytes) break;
    }
    return end;
  }

  std::unique_ptr<BulkRequest> PutRequest(std::span<const BulkOut> pages) {
    auto request = std::make_unique<BulkRequest>();
    std::vector<PutItem> items;
    request->out.emplace_back();  // the head, below
    uint64_t bytes = 0;
    for (const BulkOut& page : pages) {
      const size_t page_bytes = page.header.size() + page.payload.size();
      items.push_back({page.key, static_cast<uint32_t>(page_bytes)});
      request->out.emplace_back(page.header.data(), page.header.size());
      request->out.emplace_back(page.payload.data(), page.payload.size());
      bytes += page_bytes;
    }
    return Finished(std::move(request), FrameType::kPut, items.size(), EncodePutTable(items),
                    bytes);
  }

  std::unique_ptr<BulkRequest> GetRequest(std::span<BulkIn> pages) {
    auto request = std::make_unique<BulkRequest>();
    std::vector<PageKey> keys;
    for (const BulkIn& page : pages) keys.push_back(page.key);
    request->out.emplace_back();
    request->pages_in = pages;
    return Finished(std::move(request), FrameType::kGet, keys.size(), EncodeGetTable(keys), 0);
  }

  std::unique_ptr<BulkRequest> Finished(std::unique_ptr<BulkRequest> request, FrameType type,
                                        size_t n_items, const std::string& table, uint64_t bytes) {
    request->id = next_id_++;
    request->is_get = type == FrameType::kGet;
    request->head = EncodeFrame({.type = type,
                                 .batch_id = request->id,
                                 .n_items = static_cast<uint32_t>(n_items),
                                 .data_bytes = bytes},
                                table);
    request->out.front() = asio::buffer(request->head);
    return request;
  }

  absl::Status Execute(std::span<const std::unique_ptr<BulkRequest>> requests,
                       absl::Time deadline) {
    absl::Status first_error;
    size_t n_submitted = 0;
    const size_t n_ahead = static_cast<size_t>(options_.n_frames_in_flight);
    for (size_t i = 0; i < requests.size(); ++i) {
      while (first_error.ok() && n_submitted < std::min(requests.size(), i + n_ahead)) {
        Submit(requests[n_submitted++].get());
      }
      if (i >= n_submitted) break;
      const absl::Status status = Wait(*requests[i], deadline);
      if (first_error.ok()) first_error = status;
    }
    return first_error;
  }

  void Submit(BulkRequest* request) {
    request->submitted = true;
    asio::post(io_, [this, request] {
      if (session_ == nullptr || session_->closed()) {
        const auto now = std::chrono::steady_clock::now();
        if (session_ != nullptr && !session_->was_connected() && now < retry_at_) {
          request->Finish(session_->why_closed());
          return;
        }
        retry_at_ = now + absl::ToChronoMilliseconds(options_.connect_timeout) +
                    absl::ToChronoMilliseconds(options_.retry_after);
        StartSession();
      }
      session_->Submit(request);
    });
  }

  void StartSession() {
    std::string address;
    {
      absl::MutexLock lock(&mutex_);
      address = address_;
    }
    session_ = std::make_shared<BulkSession>(&io_, address, options_, connected_);
    asio::co_spawn(
        io_,
        [this, session = session_]() -> asio::awaitable<void> {
          co_await session->Run();
          if (session == session_ && !session->was_connected()) {
            retry_at_ =
                std::chrono::steady_clock::now() + absl::ToChronoMilliseconds(options_.retry_after);
          }
        },
        asio::detached);
  }

  // Returns when nothing refers to the request's memory any more.
  absl::Status Wait(BulkRequest& request, absl::Time deadline) {
    if (request.done.WaitForNotificationWithDeadline(deadline)) return request.status;
    asio::post(io_, [this, id = request.id] {
      if (session_ != nullptr) session_->Expire(id);
    });
    request.done.WaitForNotification();
    return request.status;
  }

  const BulkClientOptions options_;
  std::atomic<uint64_t> next_id_ = 1;
  // Shared with sessions, whose loops may end after this object's io thread was told to.
  const std::shared_ptr<std::atomic<bool>> connected_ = std::make_shared<std::atomic<bool>>(false);
  absl::Mutex mutex_;
  std::string address_ ABSL_GUARDED_BY(mutex_);

  asio::io_context io_{1};  // one thread: the session needs no locks
  asio::executor_work_guard<asio::io_context::executor_type> work_ = asio::make_work_guard(io_);
  // Of the io thread.
  std::shared_ptr<BulkSession> session_;
  std::chrono::steady_clock::time_point retry_at_;

  std::thread thread_;  // last: runs io_
};

}  // namespace

absl::Status CheckBulkAddress(const std::string& address) { return SplitAddress(address).status(); }

std::unique_ptr<BulkClient> BulkClient::Create(const BulkClientOptions& options) {
  return std::make_unique<BulkClientImpl>(options);
}

}  // namespace lexico::store

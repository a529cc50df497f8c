#include "cache_store/transfer/bulk_session.h"

#include <fmt/format.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>

#include "proto/base/status.h"

namespace lexico::store {

BulkSession::BulkSession(asio::io_context* io, const std::string& address,
                         const BulkClientOptions& options,
                         std::shared_ptr<std::atomic<bool>> connected)
    : io_(io),
      address_(address),
      connect_timeout_(options.connect_timeout),
      stall_timeout_(options.stall_timeout),
      connected_(std::move(connected)),
      socket_(*io),
      resolver_(*io),
      wake_writer_(*io),
      wake_end_(*io),
      watch_timer_(*io) {}

absl::Status BulkSession::Lost(const boost::system::error_code& error) const {
  return absl::UnavailableError(
      fmt::format("bulk connection to {} is lost: {}", address_, error.message()));
}

void BulkSession::Close(const absl::Status& why) {
  if (closed_) return;
  closed_ = true;
  why_closed_ = why;
  *connected_ = false;
  boost::system::error_code ignored;
  socket_.close(ignored);
  resolver_.cancel();
  wake_writer_.cancel();
  watch_timer_.cancel();
}

asio::awaitable<void> BulkSession::Run() {
  const auto self = shared_from_this();
  const absl::Status status = co_await Connect();
  if (!status.ok()) Close(status);
  if (!closed_) {
    was_connected_ = true;
    *connected_ = true;
    last_progress_ = Time::clock::now();
    n_loops_ = 2;
    asio::co_spawn(*io_, Watch(), asio::detached);
    asio::co_spawn(*io_, WriteRequests(), asio::detached);
    asio::co_spawn(*io_, ReadReplies(), asio::detached);
    while (n_loops_ > 0) {
      wake_end_.expires_at(Time::max());
      co_await wake_end_.async_wait(kAwait);
    }
  }
  for (const auto& [id, request] : pending_) {
    request->Finish(expired_.contains(id)
                        ? absl::DeadlineExceededError(fmt::format(
                              "the store at {} did not answer before the deadline", address_))
                        : why_closed_);
  }
  pending_.clear();
  outbox_.clear();
}

asio::awaitable<absl::Status> BulkSession::Connect() {
  const auto host_port = SplitAddress(address_);
  if (!host_port.ok()) co_return host_port.status();
  asio::steady_timer timer(*io_);
  timer.expires_after(absl::ToChronoMilliseconds(connect_timeout_));
  timer.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
    if (error) return;  // cancelled: connected in time
    self->Close(
        absl::UnavailableError(fmt::format("no bulk connection to {} within {}", self->address_,
                                           absl::FormatDuration(self->connect_timeout_))));
  });
  const auto [resolve_error, endpoints] =
      co_await resolver_.async_resolve(host_port->first, host_port->second, kAwait);
  if (resolve_error) {
    co_return absl::UnavailableError(
        fmt::format("cannot resolve {}: {}", address_, resolve_error.message()));
  }
  const auto [error, endpoint] = co_await asio::async_connect(socket_, endpoints, kAwait);
  if (error) {
    co_return absl::UnavailableError(
        fmt::format("cannot connect to the store at {}: {}", address_, error.message()));
  }
  TuneSocket(socket_);
  co_return co_await Greet();
}

asio::awaitable<absl::Status> BulkSession::Greet() {
  const std::string hello =
      EncodeFrame({.type = FrameType::kHello}, EncodeHelloTable(kBulkVersion, kBulkVersion));
  const auto [write_error, n_written] =
      co_await asio::async_write(socket_, asio::buffer(hello), kAwait);
  if (write_error) co_return Lost(write_error);
  std::array<uint8_t, kFrameHeaderBytes> head;
  const auto [head_error, n_head] = co_await asio::async_read(socket_, asio::buffer(head), kAwait);
  if (head_error) co_return Lost(head_error);
  const auto header = DecodeFrameHeader(head);
  if (!header.ok()) co_return header.status();
  std::vector<uint8_t> table(header->table_bytes);
  const auto [error, n_read] = co_await asio::async_read(socket_, asio::buffer(table), kAwait);
  if (error) co_return Lost(error);
  if (const absl::Status whole = CheckFrame(head, table); !whole.ok()) co_return whole;
  if (header->type != FrameType::kHelloReply) {
    co_return absl::InvalidArgumentError(
        fmt::format("bulk frame: the store at {} answers HELLO with type {}", address_,
                    static_cast<int>(header->type)));
  }
  co_return DecodeHelloReplyTable(table);
}

void BulkSession::Submit(BulkRequest* request) {
  if (pending_.empty()) last_progress_ = Time::clock::now();
  pending_[request->id] = request;
  outbox_.push_back(request);
  wake_writer_.cancel();
}

void BulkSession::Expire(uint64_t id) {
  const auto it = pending_.find(id);
  if (it == pending_.end()) return;  // finished meanwhile
  BulkRequest* request = it->second;
  const auto place = std::find(outbox_.begin(), outbox_.end(), request);
  if (place != outbox_.end() && !closed_) {
    outbox_.erase(place);
    pending_.erase(it);
    request->Finish(absl::DeadlineExceededError(
        fmt::format("nothing could be sent to the store at {} before the deadline", address_)));
    return;
  }
  expired_[id] = true;
  Close(absl::UnavailableError(
      fmt::format("bulk connection to {} was closed by a call that waited too long", address_)));
}

// A large frame can be in the kernel as a whole, and be on its way for long.
void BulkSession::NoteAcknowledged() {
  int n_unacknowledged = 0;
  if (closed_ || ioctl(socket_.native_handle(), SIOCOUTQ, &n_unacknowledged) != 0) return;
  if (n_unacknowledged < n_unacknowledged_) last_progress_ = Time::clock::now();
  n_unacknowledged_ = n_unacknowledged;
}

asio::awaitable<void> BulkSession::Watch() {
  const auto self = shared_from_this();
  const auto stall = absl::ToChronoMilliseconds(stall_timeout_);
  const auto tick = absl::ToChronoMilliseconds(std::min(absl::Seconds(1), stall_timeout_ / 4));
  while (!closed_) {
    watch_timer_.expires_after(tick);
    co_await watch_timer_.async_wait(kAwait);
    NoteAcknowledged();
    if (closed_ || pending_.empty() || Time::clock::now() - last_progress_ < stall) continue;
    Close(absl::DeadlineExceededError(
        fmt::format("the store at {} keeps its connection open and has moved no byte for {}",
                    address_, absl::FormatDuration(stall_timeout_))));
  }
}

asio::awaitable<void> BulkSession::WriteRequests() {
  const auto self = shared_from_this();
  while (!closed_) {
    if (outbox_.empty()) {
      wake_writer_.expires_at(Time::max());
      co_await wake_writer_.async_wait(kAwait);
      continue;
    }
    writing_ = outbox_.front();
    outbox_.pop_front();
    finished_while_writing_ = false;
    const auto [error, count] =
        co_await asio::async_write(socket_, writing_->out, NotingProgress(), kAwait);
    BulkRequest* written = std::exchange(writing_, nullptr);
    if (finished_while_writing_) {
      pending_.erase(written->id);
      written->done.Notify();
    }
    if (error) Close(Lost(error));
  }
  LoopEnded();
}

asio::awaitable<void> BulkSession::ReadReplies() {
  const auto self = shared_from_this();
  while (!closed_) {
    if (const absl::Status status = co_await ReadReply(); !status.ok()) Close(status);
  }
  LoopEnded();
}

void BulkSession::LoopEnded() {
  --n_loops_;
  wake_end_.cancel();
}

void BulkSession::FinishRequest(BulkRequest* request, const absl::Status& status) {
  if (request == writing_) {
    // The write's completion has not been seen yet; it tells the caller.
    request->status = status;
    finished_while_writing_ = true;
    return;
  }
  pending_.erase(request->id);
  request->Finish(status);
}

asio::awaitable<absl::Status> BulkSession::ReadReply() {
  std::array<uint8_t, kFrameHeaderBytes> head;
  const auto [head_error, n_head] =
      co_await asio::async_read(socket_, asio::buffer(head), NotingProgress(), kAwait);
  if (head_error) co_return Lost(head_error);
  const auto header = DecodeFrameHeader(head);
  if (!header.ok()) co_return absl::UnavailableError(std::string(header.status().message()));
  std::vector<uint8_t> table(header->table_bytes);
  const auto [error, n_read] =
      co_await asio::async_read(socket_, asio::buffer(table), NotingProgress(), kAwait);
  if (error) co_return Lost(error);
  if (const absl::Status whole = CheckFrame(head, table); !whole.ok()) {
    co_return absl::UnavailableError(std::string(whole.message()));
  }
  const auto it = pending_.find(header->batch_id);
  const FrameType wanted =
      it != pending_.end() && it->second->is_get ? FrameType::kGetReply : FrameType::kPutReply;
  if (it == pending_.end() || header->type != wanted) {
    co_return absl::UnavailableError(
        fmt::format("the store at {} sent a reply of type {} to request {}, which waits for none",
                    address_, static_cast<int>(header->type), header->batch_id));
  }
  if (wanted == FrameType::kGetReply) co_return co_await ReadPages(*header, table, it->second);
  FinishRequest(it->second, DecodePutReplyTable(table));
  co_return absl::OkStatus();
}

asio::awaitable<absl::Status> BulkSession::ReadPages(const FrameHeader& header,
                                                     const std::vector<uint8_t>& table,
                                                     BulkRequest* request) {
  const auto items = DecodeGetReplyTable(header, table);
  if (!items.ok()) co_return absl::UnavailableError(std::string(items.status().message()));
  if (items->size() != request->pages_in.size()) {
    co_return absl::UnavailableError(fmt::format("the store at {} answered {} of {} pages",
                                                 address_, items->size(),
                                                 request->pages_in.size()));
  }
  // Error texts, and pages that do not fit their place, land here.
  std::deque<std::string> aside;
  std::vector<asio::mutable_buffer> in;
  for (size_t i = 0; i < items->size(); ++i) {
    BulkIn& page = request->pages_in[i];
    const GetReplyItem& item = (*items)[i];
    const bool fits = item.bytes == kPageHeaderBytes + page.payload.size();
    if (item.code == absl::StatusCode::kOk && fits) {
      in.push_back(asio::buffer(page.header));
      in.emplace_back(page.payload.data(), page.payload.size());
    } else {
      in.push_back(asio::buffer(aside.emplace_back(item.bytes, '\0')));
    }
  }
  const auto [error, count] = co_await asio::async_read(socket_, in, NotingProgress(), kAwait);
  if (error) co_return Lost(error);
  for (size_t i = 0; i < items->size(); ++i) {
    BulkIn& page = request->pages_in[i];
    const GetReplyItem& item = (*items)[i];
    if (item.code == absl::StatusCode::kOk &&
        item.bytes == kPageHeaderBytes + page.payload.size()) {
      page.status = absl::OkStatus();
      continue;
    }
    const std::string text = std::move(aside.front());
    aside.pop_front();
    page.status = item.code != absl::StatusCode::kOk
                      ? absl::Status(item.code, text)
                      : absl::FailedPreconditionError(fmt::format(
                            "page {} has {} payload bytes, {} were expected", page.key.ToHex(),
                            item.bytes - kPageHeaderBytes, page.payload.size()));
  }
  FinishRequest(request, absl::OkStatus());
  co_return absl::OkStatus();
}

}  // namespace lexico::store

#include "cache_store/transfer/bulk_connection.h"

#include <fmt/format.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>

#include "cache_store/format/page.h"
#include "proto/base/bytes.h"
#include "proto/base/limits.h"
#include "proto/base/log.h"
#include "proto/base/status.h"

namespace lexico::store {
namespace {

absl::Status VerifyPut(std::span<const NamedPage> pages) {
  for (const NamedPage& named : pages) {
    const ExpectedPage expected{.key = named.key};
    LEXICO_RETURN_IF_ERROR(DecodePage(named.page->bytes(), &expected).status());
  }
  return absl::OkStatus();
}

absl::Status PeerLeft() { return absl::CancelledError("the peer left"); }

}  // namespace

BulkConnection::BulkConnection(Tcp::socket socket, const BulkContext* context)
    : context_(context),
      socket_(std::move(socket)),
      watch_timer_(*context->io),
      room_timer_(*context->io) {
  ExtendReadDeadline(context->options.stall_timeout);
}

void BulkConnection::ExtendReadDeadline(absl::Duration timeout) {
  read_deadline_ = std::chrono::steady_clock::now() + absl::ToChronoMilliseconds(timeout);
}

void BulkConnection::Close() {
  if (closed_) return;
  closed_ = true;
  boost::system::error_code ignored;
  socket_.close(ignored);
  watch_timer_.cancel();
  room_timer_.cancel();
}

asio::awaitable<void> BulkConnection::Watch() {
  const auto self = shared_from_this();
  const auto tick =
      absl::ToChronoMilliseconds(std::min(absl::Seconds(1), context_->options.stall_timeout / 4));
  while (!closed_) {
    watch_timer_.expires_after(tick);
    co_await watch_timer_.async_wait(kAwait);
    const Time now = std::chrono::steady_clock::now();
    if (closed_ || (now < read_deadline_ && now < write_deadline_)) continue;
    spdlog::info("bulk plane: a connection was silent for too long and is closed");
    Close();
  }
}

asio::awaitable<absl::Status> BulkConnection::ReadFrames() {
  const auto self = shared_from_this();
  absl::Status status = co_await Greet();
  while (status.ok()) {
    std::vector<uint8_t> table;
    auto header = co_await ReadHead(&table);
    status = header.status();
    if (!status.ok()) break;
    switch (header->type) {
      case FrameType::kPut:
        status = co_await ReadPut(*header, std::move(table));
        break;
      case FrameType::kGet:
        status = ReadGet(*header, table);
        break;
      default:
        status = absl::InvalidArgumentError(
            fmt::format("bulk frame: a client sent type {}", static_cast<int>(header->type)));
    }
    if (status.ok()) co_await WaitForRoom();
    if (closed_) status = PeerLeft();
  }
  co_return absl::IsCancelled(status) ? absl::OkStatus() : status;
}

asio::awaitable<absl::Status> BulkConnection::Greet() {
  std::vector<uint8_t> table;
  const auto header = co_await ReadHead(&table);
  if (!header.ok()) co_return header.status();
  if (header->type != FrameType::kHello) {
    co_return absl::InvalidArgumentError(fmt::format(
        "bulk frame: a connection begins with type {}, not HELLO", static_cast<int>(header->type)));
  }
  const auto version = ChooseVersion(table);
  const std::string reply =
      EncodeFrame({.type = FrameType::kHelloReply},
                  EncodeHelloReplyTable(version.status(), version.ok() ? *version : kBulkVersion));
  const auto [error, count] = co_await asio::async_write(socket_, asio::buffer(reply), kAwait);
  if (error) co_return PeerLeft();
  co_return version.status();
}

asio::awaitable<absl::StatusOr<FrameHeader>> BulkConnection::ReadHead(std::vector<uint8_t>* table) {
  std::array<uint8_t, kFrameHeaderBytes> head;
  {
    const auto [error] = co_await socket_.async_wait(Tcp::socket::wait_read, kAwait);
    if (error) co_return PeerLeft();
    ExtendReadDeadline(context_->options.stall_timeout);
  }
  const auto [error, count] = co_await asio::async_read(socket_, asio::buffer(head), kAwait);
  if (error) co_return PeerLeft();
  auto header = DecodeFrameHeader(head);
  if (!header.ok()) co_return header;
  table->resize(header->table_bytes);
  const auto [table_error, table_count] =
      co_await asio::async_read(socket_, asio::buffer(*table), kAwait);
  if (table_error) co_return PeerLeft();
  if (const absl::Status whole = CheckFrame(head, *table); !whole.ok()) co_return whole;
  ExtendReadDeadline(context_->options.idle_timeout);
  co_return header;
}

asio::awaitable<absl::Status> BulkConnection::ReadPut(const FrameHeader& header,
                                                      std::vector<uint8_t> table) {
  const auto items = DecodePutTable(header, table);
  if (!items.ok()) co_return items.status();
  std::vector<NamedPage> pages;
  std::vector<asio::mutable_buffer> buffers;
  for (const PutItem& item : *items) {
    auto page = std::make_shared<PageBuffer>(item.page_bytes);
    buffers.emplace_back(page->mutable_bytes().data(), page->size());
    pages.push_back({item.key, std::move(page)});
  }
  ExtendReadDeadline(context_->options.stall_timeout);
  const auto [error, count] = co_await asio::async_read(socket_, buffers, kAwait);
  if (error) co_return PeerLeft();
  ExtendReadDeadline(context_->options.idle_timeout);

  Handle(header.data_bytes, [handler = context_->handler, batch_id = header.batch_id,
                             pages = std::move(pages)]() mutable {
    absl::Status status = VerifyPut(pages);
    if (!status.ok()) {
      handler->OnRefused(status);
    } else {
      status = handler->PutPages(std::move(pages));
    }
    Reply reply;
    reply.head = EncodeFrame({.type = FrameType::kPutReply, .batch_id = batch_id},
                             EncodePutReplyTable(status));
    return reply;
  });
  co_return absl::OkStatus();
}

absl::Status BulkConnection::ReadGet(const FrameHeader& header, const std::vector<uint8_t>& table) {
  LEXICO_ASSIGN_OR_RETURN(auto keys, DecodeGetTable(header, table));
  // What the reply may take is reserved before it is known.
  Handle(base::kBulkFrameBytesMax, [handler = context_->handler, batch_id = header.batch_id,
                                    keys = std::move(keys)] {
    Reply reply;
    std::vector<GetReplyItem> items;
    for (auto& page : handler->GetPages(keys)) {
      absl::Status status = page.status();
      if (page.ok() && reply.bytes + (*page)->size() > base::kBulkFrameBytesMax) {
        status = absl::ResourceExhaustedError("the reply is full; ask for fewer pages at once");
      }
      ReplyItem item;
      if (status.ok()) {
        item.page = *std::move(page);
      } else {
        item.text.assign(status.message().data(),
                         std::min(status.message().size(), kBulkErrorBytesMax));
      }
      const size_t bytes = item.page != nullptr ? item.page->size() : item.text.size();
      items.push_back({status.code(), static_cast<uint32_t>(bytes)});
      reply.bytes += bytes;
      reply.items.push_back(std::move(item));
    }
    reply.head = EncodeFrame({.type = FrameType::kGetReply,
                              .batch_id = batch_id,
                              .n_items = static_cast<uint32_t>(items.size()),
                              .data_bytes = reply.bytes},
                             EncodeGetReplyTable(items));
    return reply;
  });
  return absl::OkStatus();
}

template <typename Work>
void BulkConnection::Handle(size_t reserved, Work work) {
  in_flight_bytes_ += reserved;
  asio::post(
      *context_->handlers, [self = shared_from_this(), reserved, work = std::move(work)]() mutable {
        Reply reply = work();
        asio::post(*self->context_->io, [self, reserved, reply = std::move(reply)]() mutable {
          self->in_flight_bytes_ -= reserved;
          self->Enqueue(std::move(reply));
        });
      });
}

void BulkConnection::Enqueue(Reply reply) {
  room_timer_.cancel();
  if (closed_) return;
  in_flight_bytes_ += reply.bytes;
  outbox_.push_back(std::move(reply));
  if (writing_) return;
  writing_ = true;
  asio::co_spawn(*context_->io, WriteReplies(), asio::detached);
}

asio::awaitable<void> BulkConnection::WriteReplies() {
  const auto self = shared_from_this();
  while (!closed_ && !outbox_.empty()) {
    const Reply reply = std::move(outbox_.front());
    outbox_.pop_front();
    std::vector<asio::const_buffer> buffers = {asio::buffer(reply.head)};
    for (const ReplyItem& item : reply.items) {
      const auto bytes =
          item.page != nullptr ? item.page->bytes() : base::AsBytes(std::string_view(item.text));
      buffers.emplace_back(bytes.data(), bytes.size());
    }
    write_deadline_ = std::chrono::steady_clock::now() +
                      absl::ToChronoMilliseconds(context_->options.stall_timeout);
    const auto [error, count] = co_await asio::async_write(socket_, buffers, kAwait);
    write_deadline_ = Time::max();
    in_flight_bytes_ -= reply.bytes;
    room_timer_.cancel();
    if (error) Close();
  }
  writing_ = false;
}

asio::awaitable<void> BulkConnection::WaitForRoom() {
  while (!closed_ && in_flight_bytes_ >= base::kBulkInFlightBytesMax) {
    // The read deadline does not run while it is we who do not read.
    read_deadline_ = Time::max();
    room_timer_.expires_at(Time::max());
    co_await room_timer_.async_wait(kAwait);
  }
  ExtendReadDeadline(context_->options.idle_timeout);
}

}  // namespace lexico::store

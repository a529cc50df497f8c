// One connection of a bulk server: reads frames, has them handled, writes replies.
//
// Everything runs on the server's io thread but the handlers. Loops keep the connection alive; it
// is gone when the last of them has ended.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cache_store/transfer/bulk_server.h"
#include "cache_store/transfer/frame.h"
#include "cache_store/transfer/socket.h"

namespace lexico::store {

// What the connections of one server share.
struct BulkContext {
  BulkServerOptions options;
  BulkHandler* handler;
  asio::io_context* io;
  asio::thread_pool* handlers;
};

class BulkConnection : public std::enable_shared_from_this<BulkConnection> {
 public:
  BulkConnection(Tcp::socket socket, const BulkContext* context);

  // Until the peer leaves (OK), breaks the rules (InvalidArgument), stalls or Close is called.
  asio::awaitable<absl::Status> ReadFrames();
  // Closes the connection when a deadline passes; ends when it is closed.
  asio::awaitable<void> Watch();
  void Close();

 private:
  struct ReplyItem {
    PagePtr page;      // or
    std::string text;  // why there is none
  };
  struct Reply {
    std::string head;  // header and table
    std::vector<ReplyItem> items;
    size_t bytes = 0;
  };
  using Time = std::chrono::steady_clock::time_point;

  asio::awaitable<absl::Status> Greet();
  // nullopt-like: a status of code Cancelled means that the peer left.
  asio::awaitable<absl::StatusOr<FrameHeader>> ReadHead(std::vector<uint8_t>* table);
  asio::awaitable<absl::Status> ReadPut(const FrameHeader& header, std::vector<uint8_t> table);
  absl::Status ReadGet(const FrameHeader& header, const std::vector<uint8_t>& table);
  // Runs `work` on a handler thread and sends its reply. `reserved` bytes count as in flight until
  // then.
  template <typename Work>
  void Handle(size_t reserved, Work work);
  void Enqueue(Reply reply);
  asio::awaitable<void> WriteReplies();
  asio::awaitable<void> WaitForRoom();
  void ExtendReadDeadline(absl::Duration timeout);

  const BulkContext* const context_;
  Tcp::socket socket_;
  asio::steady_timer watch_timer_;
  asio::steady_timer room_timer_;  // never expires; cancelled when room was made
  Time read_deadline_;
  Time write_deadline_ = Time::max();
  std::deque<Reply> outbox_;
  size_t in_flight_bytes_ = 0;
  bool writing_ = false;
  bool closed_ = false;
};

}  // namespace lexico::store

// One connection of a bulk client, from the connection attempt to its end.
//
// Everything runs on the client's io thread. Requests belong to callers that wait for them: a
// request is finished exactly once, and only when no socket operation refers to its memory.
#pragma once

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "cache_store/transfer/bulk_client.h"
#include "cache_store/transfer/frame.h"
#include "cache_store/transfer/socket.h"

namespace lexico::store {

struct BulkRequest {
  uint64_t id = 0;
  bool is_get = false;
  std::string head;                     // frame header and table
  std::vector<asio::const_buffer> out;  // head, then the pages of a PUT
  std::span<BulkIn> pages_in;           // of a GET
  bool submitted = false;               // of the caller's thread

  // Result; read it after `done`.
  absl::Status status;
  absl::Notification done;

  // The caller may destroy the request at once.
  void Finish(const absl::Status& result) {
    status = result;
    done.Notify();
  }
};

class BulkSession : public std::enable_shared_from_this<BulkSession> {
 public:
  // `connected` is true while requests can be sent.
  BulkSession(asio::io_context* io, const std::string& address, const BulkClientOptions& options,
              std::shared_ptr<std::atomic<bool>> connected);

  // Connects and serves until the end; every request has been finished then.
  asio::awaitable<void> Run();
  void Submit(BulkRequest* request);
  // The request's deadline has passed: it is taken back if nothing of it was sent, otherwise the
  // connection is closed, because its memory is in use.
  void Expire(uint64_t id);
  void Close(const absl::Status& why);

  bool closed() const { return closed_; }
  bool was_connected() const { return was_connected_; }
  const absl::Status& why_closed() const { return why_closed_; }

 private:
  using Time = std::chrono::steady_clock::time_point;
  // Of one step of a transfer, as asio's own transfer_all.
  static constexpr size_t kTransferBytesMax = 65536;

  asio::awaitable<absl::Status> Connect();
  asio::awaitable<absl::Status> Greet();
  asio::awaitable<void> WriteRequests();
  asio::awaitable<void> ReadReplies();
  // Closes the connection when requests wait and no byte moves for stall_timeout.
  asio::awaitable<void> Watch();
  void NoteAcknowledged();
  // A completion condition: transfer all, and note every step as a sign of life.
  auto NotingProgress() {
    return [this](const boost::system::error_code& error, size_t n_bytes) -> size_t {
      if (n_bytes > 0) last_progress_ = Time::clock::now();
      return error ? 0 : kTransferBytesMax;
    };
  }
  asio::awaitable<absl::Status> ReadReply();
  asio::awaitable<absl::Status> ReadPages(const FrameHeader& header,
                                          const std::vector<uint8_t>& table, BulkRequest* request);
  void FinishRequest(BulkRequest* request, const absl::Status& status);
  void LoopEnded();
  absl::Status Lost(const boost::system::error_code& error) const;

  asio::io_context* const io_;
  const std::string address_;
  const absl::Duration connect_timeout_;
  const absl::Duration stall_timeout_;
  const std::shared_ptr<std::atomic<bool>> connected_;
  Tcp::socket socket_;
  Tcp::resolver resolver_;
  asio::steady_timer wake_writer_;  // never expires; cancelled when there is something to do
  asio::steady_timer wake_end_;     // likewise, when both loops have ended
  asio::steady_timer watch_timer_;
  Time last_progress_;        // a byte moved, or a request came when none waited
  int n_unacknowledged_ = 0;  // bytes in the kernel that the peer's has not taken, at the last look
  std::deque<BulkRequest*> outbox_;
  std::map<uint64_t, BulkRequest*> pending_;  // not finished, in the outbox or sent
  BulkRequest* writing_ = nullptr;
  bool finished_while_writing_ = false;
  std::map<uint64_t, bool> expired_;  // ids whose callers gave up
  int n_loops_ = 0;
  bool closed_ = false;
  bool was_connected_ = false;
  absl::Status why_closed_;
};

}  // namespace lexico::store

#include "cache_store/transfer/bulk_server.h"

#include <fmt/format.h>

#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <set>
#include <thread>

#include "cache_store/transfer/bulk_connection.h"
#include "cache_store/transfer/socket.h"
#include "proto/base/limits.h"
#include "proto/base/log.h"
#include "proto/base/status.h"

namespace lexico::store {
namespace {

class BulkServerImpl : public BulkServer {
 public:
  BulkServerImpl(const BulkServerOptions& options, BulkHandler* handler)
      : handlers_(static_cast<size_t>(options.n_handler_threads)),
        acceptor_(io_),
        context_{options, handler, &io_, &handlers_} {}

  ~BulkServerImpl() override {
    asio::post(io_, [this] {
      closing_ = true;
      boost::system::error_code ignored;
      acceptor_.close(ignored);
      const auto open = connections_;  // Close ends loops, which leave the set
      for (const auto& connection : open) connection->Close();
    });
    // Handlers answer into io_, which runs until they are done and every loop has ended.
    handlers_.join();
    work_.reset();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Listen() {
    LEXICO_ASSIGN_OR_RETURN(const auto host_port, SplitAddress(context_.options.address));
    boost::system::error_code error;
    Tcp::resolver resolver(io_);
    const auto endpoints =
        resolver.resolve(host_port.first, host_port.second, Tcp::resolver::passive, error);
    if (!error) {
      const Tcp::endpoint endpoint = endpoints.begin()->endpoint();
      acceptor_.open(endpoint.protocol(), error);
      if (!error) acceptor_.set_option(asio::socket_base::reuse_address(true), error);
      if (!error) acceptor_.bind(endpoint, error);
      if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    }
    if (error) {
      return absl::UnavailableError(
          fmt::format("cannot listen on {}: {}; choose another "
                      "--bulk_address",
                      context_.options.address, error.message()));
    }
    port_ = acceptor_.local_endpoint(error).port();
    asio::co_spawn(io_, Accept(), asio::detached);
    thread_ = std::thread([this] { io_.run(); });
    return absl::OkStatus();
  }

  int port() const override { return port_; }
  int n_connections() const override { return n_connections_; }

 private:
  asio::awaitable<void> Accept() {
    asio::steady_timer pause(io_);
    while (!closing_) {
      auto [error, socket] = co_await acceptor_.async_accept(kAwait);
      if (closing_) break;
      if (error) {
        // Out of file descriptors, say: connections that end will free some.
        spdlog::warn("bulk plane: accept: {}", error.message());
        pause.expires_after(std::chrono::milliseconds(100));
        co_await pause.async_wait(kAwait);
        continue;
      }
      if (connections_.size() >= base::kBulkConnectionsMax) {
        context_.handler->OnRefused(absl::ResourceExhaustedError(
            fmt::format("bulk plane: {} connections are open, at most {} are served",
                        connections_.size(), base::kBulkConnectionsMax)));
        continue;  // closes it
      }
      TuneSocket(socket);
      auto connection = std::make_shared<BulkConnection>(std::move(socket), &context_);
      connections_.insert(connection);
      n_connections_ = static_cast<int>(connections_.size());
      asio::co_spawn(io_, Serve(connection), asio::detached);
    }
  }

  asio::awaitable<void> Serve(std::shared_ptr<BulkConnection> connection) {
    asio::co_spawn(io_, connection->Watch(), asio::detached);
    const absl::Status ended = co_await connection->ReadFrames();
    if (!ended.ok()) context_.handler->OnRefused(ended);
    connection->Close();
    connections_.erase(connection);
    n_connections_ = static_cast<int>(connections_.size());
  }

  asio::io_context io_{1};  // one thread: connections need no locks
  asio::thread_pool handlers_;
  asio::executor_work_guard<asio::io_context::executor_type> work_ = asio::make_work_guard(io_);
  Tcp::acceptor acceptor_;
  BulkContext context_;
  std::thread thread_;
  int port_ = 0;
  std::atomic<int> n_connections_ = 0;

  // Of the io thread.
  bool closing_ = false;
  std::set<std::shared_ptr<BulkConnection>> connections_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BulkServer>> BulkServer::Start(const BulkServerOptions& options,
                                                              BulkHandler* handler) {
  auto server = std::make_unique<BulkServerImpl>(options, handler);
  LEXICO_RETURN_IF_ERROR(server->Listen());
  return server;
}

}  // namespace lexico::store

// What both sides of the bulk plane need of Boost.Asio.
#pragma once

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace lexico::store {

namespace asio = boost::asio;
using Tcp = asio::ip::tcp;

// Completion token: co_await gives (error_code, results...) and never throws.
inline constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);

// Small frames go out at once, and a peer that vanished without a word is noticed.
inline void TuneSocket(Tcp::socket& socket) {
  boost::system::error_code ignored;
  socket.set_option(Tcp::no_delay(true), ignored);
  socket.set_option(asio::socket_base::keep_alive(true), ignored);
}

// "host:port" and "[v6]:port" in two. InvalidArgument names the address.
absl::StatusOr<std::pair<std::string, std::string>> SplitAddress(const std::string& address);

}  // namespace lexico::store

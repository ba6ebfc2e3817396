#include "kvplane/server/testing/raw_client.h"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "kvplane/base/clock.h"
#include "kvplane/server/http_parser.h"

namespace kvplane::server::testing {

std::string RawResponse::Header(std::string_view name) const {
  size_t at = head.find("\r\n");
  while (at != std::string::npos && at + 2 < head.size()) {
    const size_t begin = at + 2;
    at = head.find("\r\n", begin);
    const std::string_view line = std::string_view(head).substr(begin, at - begin);
    const size_t colon = line.find(": ");
    if (colon != std::string_view::npos && EqualsIgnoreCase(line.substr(0, colon), name)) {
      return std::string(line.substr(colon + 2));
    }
  }
  return "";
}

RawClient::RawClient(uint16_t port) {
  socket_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) Close();
}

RawClient::~RawClient() { Close(); }

void RawClient::Close() {
  if (socket_ >= 0) ::close(std::exchange(socket_, -1));
}

void RawClient::ShutdownSend() { ::shutdown(socket_, SHUT_WR); }

bool RawClient::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

std::string RawClient::ReadSome(int timeout_ms) {
  if (!buffer_.empty()) return std::exchange(buffer_, {});
  pollfd poll_socket{socket_, POLLIN, 0};
  if (::poll(&poll_socket, 1, timeout_ms) <= 0) return "";
  std::array<char, 16384> bytes;
  const ssize_t count = ::recv(socket_, bytes.data(), bytes.size(), 0);
  return count > 0 ? std::string(bytes.data(), static_cast<size_t>(count)) : "";
}

RawResponse RawClient::ReadResponse(int timeout_ms) {
  const base::Clock& clock = base::Clock::System();
  const base::TimePoint deadline = clock.Now() + std::chrono::milliseconds(timeout_ms);
  HttpResponseParser parser(HttpLimits{});
  std::string head;
  RawResponse response;
  while (parser.state() != HttpParserState::kDone && parser.state() != HttpParserState::kError) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(base::TimeLeft(clock, deadline)).count();
    const std::string bytes = ReadSome(static_cast<int>(left));
    if (bytes.empty()) {
      parser.FeedEof();
      response.cut = parser.state() != HttpParserState::kDone;
      break;
    }
    if (!parser.head_complete()) head += bytes;
    buffer_ = bytes.substr(parser.Feed(bytes));
  }
  if (parser.head_complete() || parser.state() == HttpParserState::kDone || parser.status() != 0) {
    response.status = parser.status();
  }
  if (head.empty()) response.status = 0;
  response.head = head.substr(0, head.find("\r\n\r\n"));
  response.body = parser.TakeBody();
  return response;
}

bool RawClient::WaitForClose(int timeout_ms) {
  const base::Clock& clock = base::Clock::System();
  const base::TimePoint deadline = clock.Now() + std::chrono::milliseconds(timeout_ms);
  while (clock.Now() < deadline) {
    pollfd poll_socket{socket_, POLLIN, 0};
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(base::TimeLeft(clock, deadline)).count();
    if (::poll(&poll_socket, 1, static_cast<int>(left)) <= 0) return false;
    std::array<char, 16384> bytes;
    if (::recv(socket_, bytes.data(), bytes.size(), 0) <= 0) return true;
  }
  return false;
}

RawResponse Call(uint16_t port, std::string_view method, std::string_view target, std::string_view body,
                 std::string_view extra_headers, int timeout_ms) {
  RawClient client(port);
  if (!client.connected()) return {};
  const bool own_type = extra_headers.find("Content-Type") != std::string_view::npos;
  const std::string_view type = own_type || method != "POST" ? "" : "Content-Type: application/json\r\n";
  const std::string_view host =
      extra_headers.find("Host:") != std::string_view::npos ? "" : "Host: localhost\r\n";
  client.Send(fmt::format("{} {} HTTP/1.1\r\n{}Connection: close\r\n{}Content-Length: {}\r\n{}\r\n{}", method,
                          target, host, type, body.size(), extra_headers, body));
  return client.ReadResponse(timeout_ms);
}

}  // namespace kvplane::server::testing

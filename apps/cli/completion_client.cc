#include "apps/cli/completion_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "kvplane/server/http_message.h"

namespace kvplane::cli {
namespace {

using nlohmann::json;

// Waits until `fd` is ready for `events`.
base::Status Await(int fd, short events, base::TimePoint deadline) {
  while (true) {
    const base::Duration left = base::TimeLeft(base::Clock::System(), deadline, std::chrono::seconds(60));
    pollfd poll_fd{.fd = fd, .events = events, .revents = 0};
    const int ready = poll(&poll_fd, 1, static_cast<int>(base::ToMillis(left)) + 1);
    if (ready > 0) return base::Status::Ok();
    if (ready < 0 && errno != EINTR) return base::Internal("poll: {}", std::strerror(errno));
    if (base::Clock::System().Now() >= deadline) return base::DeadlineExceeded("no answer in time");
  }
}

// The fields of one streamed chunk, added to `result`.
base::Status Absorb(const json& chunk, base::TimePoint sent, CompletionResult& result) {
  if (chunk.contains("error")) return base::Unavailable("server: {}", chunk["error"].dump());
  const base::TimePoint now = base::Clock::System().Now();
  for (const json& choice : chunk.value("choices", json::array())) {
    const auto ids = choice.value("token_ids", std::vector<int32_t>());
    if (!ids.empty()) {
      if (result.token_ids.empty()) result.ttft_s = base::ToSeconds(now - sent);
      result.jct_s = base::ToSeconds(now - sent);
      result.token_ids.insert(result.token_ids.end(), ids.begin(), ids.end());
    }
    result.text += choice.value("text", "");
  }
  if (const auto usage = chunk.find("usage"); usage != chunk.end() && usage->is_object()) {
    result.prompt_tokens = usage->value("prompt_tokens", 0u);
    if (const auto details = usage->find("prompt_tokens_details");
        details != usage->end() && details->is_object()) {
      result.cached_tokens = details->value("cached_tokens", 0u);
    }
  }
  if (const auto extension = chunk.find("kvplane"); extension != chunk.end() && extension->is_object()) {
    result.source = extension->value("source", "");
    result.recompute_reason = extension->value("recompute_reason", "");
    if (const auto transfer = extension->find("transfer");
        transfer != extension->end() && transfer->is_object()) {
      result.bytes_raw = transfer->value("bytes_raw", uint64_t{0});
      result.bytes_wire = transfer->value("bytes_wire", uint64_t{0});
    }
  }
  return base::Status::Ok();
}

// Splits complete events off `pending`. Returns true at "[DONE]".
base::Result<bool> AbsorbEvents(std::string& pending, base::TimePoint sent, CompletionResult& result) {
  constexpr std::string_view kPrefix = "data: ";
  while (true) {
    const size_t end = pending.find("\n\n");
    if (end == std::string::npos) return false;
    const std::string event = pending.substr(0, end);
    pending.erase(0, end + 2);
    if (!event.starts_with(kPrefix)) continue;
    const std::string_view data = std::string_view(event).substr(kPrefix.size());
    if (data == "[DONE]") return true;
    const json chunk = json::parse(data, nullptr, false);
    if (!chunk.is_object()) return base::Corrupt("not a JSON object in the stream: '{}'", data);
    try {
      KVPLANE_RETURN_IF_ERROR(Absorb(chunk, sent, result));
    } catch (const json::exception& error) {
      return base::Corrupt("unexpected chunk '{}': {}", data, error.what());
    }
  }
}

}  // namespace

CompletionClient::~CompletionClient() { Close(); }

void CompletionClient::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

base::Status CompletionClient::Connect(base::TimePoint deadline) {
  const size_t colon = address_.rfind(':');
  sockaddr_in to{};
  to.sin_family = AF_INET;
  uint16_t port = 0;
  const std::string host = address_.substr(0, colon);
  const char* const last = address_.data() + address_.size();
  if (colon == std::string::npos || inet_pton(AF_INET, host.c_str(), &to.sin_addr) != 1 ||
      std::from_chars(address_.data() + colon + 1, last, port).ptr != last) {
    return base::InvalidArgument("'{}' is not a numeric HOST:PORT", address_);
  }
  to.sin_port = htons(port);
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd_ < 0) return base::Internal("socket: {}", std::strerror(errno));
  const int one = 1;
  setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0 && errno != EINPROGRESS) {
    return base::Unavailable("{}: {}", address_, std::strerror(errno));
  }
  KVPLANE_RETURN_IF_ERROR(Await(fd_, POLLOUT, deadline));
  int error = 0;
  socklen_t length = sizeof error;
  getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &length);
  if (error != 0) return base::Unavailable("{}: {}", address_, std::strerror(error));
  return base::Status::Ok();
}

base::Status CompletionClient::Send(std::string_view bytes, base::TimePoint deadline) {
  while (!bytes.empty()) {
    const ssize_t count = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count > 0) {
      bytes.remove_prefix(static_cast<size_t>(count));
    } else if (errno == EAGAIN) {
      KVPLANE_RETURN_IF_ERROR(Await(fd_, POLLOUT, deadline));
    } else if (errno != EINTR) {
      return base::Unavailable("{}: {}", address_, std::strerror(errno));
    }
  }
  return base::Status::Ok();
}

base::Result<std::string> CompletionClient::ReceiveSome(base::TimePoint deadline) {
  char buffer[16384];
  while (true) {
    KVPLANE_RETURN_IF_ERROR(Await(fd_, POLLIN, deadline));
    const ssize_t count = recv(fd_, buffer, sizeof buffer, 0);
    if (count > 0) return std::string(buffer, static_cast<size_t>(count));
    if (count == 0) return base::Unavailable("{} closed the connection", address_);
    if (errno != EINTR && errno != EAGAIN) return base::Unavailable("{}: {}", address_, std::strerror(errno));
  }
}

base::Result<CompletionResult> CompletionClient::ReadStream(base::TimePoint sent, base::TimePoint deadline) {
  server::HttpResponseParser parser{server::HttpLimits{}};
  CompletionResult result;
  std::string pending;
  bool done = false;
  while (parser.state() != server::HttpParserState::kDone) {
    KVPLANE_ASSIGN_OR_RETURN(const std::string bytes, ReceiveSome(deadline));
    parser.Feed(bytes);
    if (parser.state() == server::HttpParserState::kError)
      return base::Corrupt("{}: {}", address_, parser.error());
    if (!parser.head_complete()) continue;
    pending += parser.TakeBody();
    if (parser.status() == 200 && !done) {
      KVPLANE_ASSIGN_OR_RETURN(done, AbsorbEvents(pending, sent, result));
    }
  }
  if (!parser.keep_alive()) Close();
  if (parser.status() != 200)
    return base::Unavailable("{} answered {}: {}", address_, parser.status(), pending);
  if (!done) return base::Corrupt("{} ended the stream without [DONE]", address_);
  return result;
}

base::Result<int> CompletionClient::ReadStatus(base::TimePoint deadline) {
  server::HttpResponseParser parser{server::HttpLimits{}};
  while (parser.state() != server::HttpParserState::kDone) {
    KVPLANE_ASSIGN_OR_RETURN(const std::string bytes, ReceiveSome(deadline));
    parser.Feed(bytes);
    if (parser.state() == server::HttpParserState::kError)
      return base::Corrupt("{}: {}", address_, parser.error());
  }
  if (!parser.keep_alive()) Close();
  return parser.status();
}

base::Result<int> CompletionClient::GetStatus(std::string_view path, base::TimePoint deadline) {
  if (fd_ < 0) KVPLANE_RETURN_IF_ERROR(Connect(deadline));
  server::HttpRequest request;
  request.target = path;
  const base::Status status = Send(server::SerializeRequest(request, address_), deadline);
  base::Result<int> result = status.ok() ? ReadStatus(deadline) : base::Result<int>(status);
  if (!result.ok()) Close();
  return result;
}

base::Result<CompletionResult> CompletionClient::Complete(const CompletionCall& call,
                                                          base::TimePoint deadline) {
  if (fd_ < 0) KVPLANE_RETURN_IF_ERROR(Connect(deadline));
  json body = {{"prompt", call.prompt},
               {"max_tokens", call.max_tokens},
               {"temperature", 0},
               {"stream", true},
               {"stream_options", {{"include_usage", true}}},
               {"ignore_eos", call.ignore_eos},
               {"return_token_ids", true}};
  if (!call.strategy.empty()) body["kvplane"] = {{"strategy", call.strategy}};
  server::HttpRequest request;
  request.method = "POST";
  request.target = "/v1/completions";
  request.headers.Add("Content-Type", "application/json");
  request.body = body.dump(-1, ' ', false, json::error_handler_t::replace);
  const base::TimePoint sent = base::Clock::System().Now();
  const base::Status status = Send(server::SerializeRequest(request, address_), deadline);
  base::Result<CompletionResult> result =
      status.ok() ? ReadStream(sent, deadline) : base::Result<CompletionResult>(status);
  if (!result.ok()) Close();  // the stream's position is unknown
  return result;
}

}  // namespace kvplane::cli

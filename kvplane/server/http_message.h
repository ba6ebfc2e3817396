// HTTP/1.1 messages as values, and their serialisation. Pure: no sockets, no time.
//
// Why an own codec: the packaged parsers accept bare LF, folded lines and a space before the colon, each a
// known request-smuggling vector behind a proxy (docs/api.md). What http_parser.h accepts and this file
// writes is the strict subset of RFC 9112 that API clients use.
//
// Thread safety: values.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvplane::server {

// ASCII case-insensitive comparison, as header names and tokens need.
bool EqualsIgnoreCase(std::string_view a, std::string_view b);

struct HttpHeader {
  std::string name;
  std::string value;  // without surrounding blanks
};

// Headers in the order received. Names compare case-insensitively; repeated names are kept apart.
class HttpHeaders {
 public:
  void Add(std::string_view name, std::string_view value);
  // Replaces every header of that name with this one.
  void Set(std::string_view name, std::string_view value);
  void Remove(std::string_view name);
  // The first value of that name.
  std::optional<std::string_view> Find(std::string_view name) const;
  size_t Count(std::string_view name) const;
  // True when a comma-separated list header (Connection, for one) holds `token`.
  bool HasToken(std::string_view name, std::string_view token) const;

  const std::vector<HttpHeader>& items() const { return items_; }
  void Clear() { items_.clear(); }

 private:
  std::vector<HttpHeader> items_;
};

struct HttpRequest {
  std::string method = "GET";
  std::string target = "/";  // origin form, as sent: path and query
  int minor_version = 1;     // HTTP/1.<minor_version>
  HttpHeaders headers;
  std::string body;

  std::string_view path() const;  // target up to '?'
  // Of the Host header: the host without port and brackets; empty when there is none.
  std::string_view host() const;
  // What the sender wants after this exchange (RFC 9112 §9.3).
  bool keep_alive() const;
};

struct HttpResponse {
  int status = 200;
  HttpHeaders headers;
  std::string body;
};

// "Not Found" for 404; "Unknown" for what we never send.
std::string_view ReasonPhrase(int status);

// How the receiver will find the end of the body.
enum class BodyFraming {
  kLength,   // Content-Length: body.size()
  kChunked,  // Transfer-Encoding: chunked
  kClose,    // until the connection closes (streams to HTTP/1.0 clients)
};

// The head up to and including the empty line. Framing and Connection headers are written here; the same
// names in `response.headers` are ignored.
std::string SerializeResponseHead(const HttpResponse& response, BodyFraming framing, bool keep_alive);
// Head and body; `host` becomes the Host header. The body is sent with Content-Length.
std::string SerializeRequest(const HttpRequest& request, std::string_view host);

// One chunk of a chunked body. An empty chunk would end the body, so empty data appends nothing.
void AppendChunk(std::string& out, std::string_view data);
constexpr std::string_view kLastChunk = "0\r\n\r\n";

// One server-sent event ("data: ...\n\n"); line breaks in `data` become further data lines.
std::string SseEvent(std::string_view data);
constexpr std::string_view kSseDone = "data: [DONE]\n\n";

}  // namespace kvplane::server

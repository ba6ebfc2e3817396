#include "kvplane/server/http_message.h"

#include <fmt/core.h>

#include <algorithm>

namespace kvplane::server {
namespace {

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; }

std::string_view TrimBlanks(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// Headers that describe this hop's framing; the serialiser alone writes them.
bool IsFramingHeader(std::string_view name) {
  return EqualsIgnoreCase(name, "Content-Length") || EqualsIgnoreCase(name, "Transfer-Encoding") ||
         EqualsIgnoreCase(name, "Connection");
}

// A value with a line break would let its author write headers of their own.
bool IsSafeValue(std::string_view value) {
  return std::none_of(value.begin(), value.end(), [](char c) {
    return (static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f;
  });
}

void AppendHeaders(std::string& out, const HttpHeaders& headers) {
  for (const HttpHeader& header : headers.items()) {
    if (IsFramingHeader(header.name) || !IsSafeValue(header.name) || !IsSafeValue(header.value)) continue;
    out.append(header.name).append(": ").append(header.value).append("\r\n");
  }
}

}  // namespace

bool EqualsIgnoreCase(std::string_view a, std::string_view b) {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [](char x, char y) { return Lower(x) == Lower(y); });
}

void HttpHeaders::Add(std::string_view name, std::string_view value) {
  items_.push_back({std::string(name), std::string(value)});
}

void HttpHeaders::Set(std::string_view name, std::string_view value) {
  Remove(name);
  Add(name, value);
}

void HttpHeaders::Remove(std::string_view name) {
  std::erase_if(items_, [&](const HttpHeader& header) { return EqualsIgnoreCase(header.name, name); });
}

std::optional<std::string_view> HttpHeaders::Find(std::string_view name) const {
  for (const HttpHeader& header : items_) {
    if (EqualsIgnoreCase(header.name, name)) return header.value;
  }
  return std::nullopt;
}

size_t HttpHeaders::Count(std::string_view name) const {
  return static_cast<size_t>(std::count_if(items_.begin(), items_.end(), [&](const HttpHeader& header) {
    return EqualsIgnoreCase(header.name, name);
  }));
}

bool HttpHeaders::HasToken(std::string_view name, std::string_view token) const {
  for (const HttpHeader& header : items_) {
    if (!EqualsIgnoreCase(header.name, name)) continue;
    std::string_view rest = header.value;
    while (!rest.empty()) {
      const size_t comma = rest.find(',');
      if (EqualsIgnoreCase(TrimBlanks(rest.substr(0, comma)), token)) return true;
      if (comma == std::string_view::npos) break;
      rest.remove_prefix(comma + 1);
    }
  }
  return false;
}

std::string_view HttpRequest::path() const {
  const std::string_view text = target;
  return text.substr(0, text.find('?'));
}

std::string_view HttpRequest::host() const {
  std::string_view text = headers.Find("Host").value_or("");
  if (text.starts_with('[')) {
    const size_t end = text.find(']');
    return end == std::string_view::npos ? std::string_view() : text.substr(1, end - 1);
  }
  return text.substr(0, text.find(':'));
}

bool HttpRequest::keep_alive() const {
  if (headers.HasToken("Connection", "close")) return false;
  return minor_version >= 1 || headers.HasToken("Connection", "keep-alive");
}

std::string_view ReasonPhrase(int status) {
  switch (status) {
    case 100:
      return "Continue";
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 414:
      return "URI Too Long";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 502:
      return "Bad Gateway";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Unknown";
  }
}

std::string SerializeResponseHead(const HttpResponse& response, BodyFraming framing, bool keep_alive) {
  std::string out = fmt::format("HTTP/1.1 {} {}\r\n", response.status, ReasonPhrase(response.status));
  AppendHeaders(out, response.headers);
  switch (framing) {
    case BodyFraming::kLength:
      out += fmt::format("Content-Length: {}\r\n", response.body.size());
      break;
    case BodyFraming::kChunked:
      out += "Transfer-Encoding: chunked\r\n";
      break;
    case BodyFraming::kClose:
      break;
  }
  const bool stays_open = keep_alive && framing != BodyFraming::kClose;
  out += stays_open ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
  return out;
}

std::string SerializeRequest(const HttpRequest& request, std::string_view host) {
  std::string out = fmt::format("{} {} HTTP/1.1\r\nHost: {}\r\n", request.method, request.target, host);
  HttpHeaders headers = request.headers;
  headers.Remove("Host");
  AppendHeaders(out, headers);
  if (!request.body.empty() || request.method == "POST") {
    out += fmt::format("Content-Length: {}\r\n", request.body.size());
  }
  out += "\r\n";
  out += request.body;
  return out;
}

void AppendChunk(std::string& out, std::string_view data) {
  if (data.empty()) return;
  fmt::format_to(std::back_inserter(out), "{:x}\r\n", data.size());
  out.append(data).append("\r\n");
}

std::string SseEvent(std::string_view data) {
  std::string out;
  out.reserve(data.size() + 8);
  size_t begin = 0;
  while (true) {
    const size_t end = data.find('\n', begin);
    out.append("data: ").append(data.substr(begin, end - begin)).append("\n");
    if (end == std::string_view::npos) break;
    begin = end + 1;
  }
  out += '\n';
  return out;
}

}  // namespace kvplane::server

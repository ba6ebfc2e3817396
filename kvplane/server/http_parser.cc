#include "kvplane/server/http_parser.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <utility>

namespace kvplane::server {
namespace {

// A chunk-size line: 16 hex digits and a short extension.
constexpr size_t kMaxChunkLineBytes = 256;
// 2^60 bytes: larger sizes are attacks, and the bound keeps all sums inside 64 bits.
constexpr size_t kMaxChunkSizeDigits = 15;
constexpr size_t kMaxLengthDigits = 18;

bool IsTokenChar(char c) {
  if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return true;
  return std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

bool IsToken(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), IsTokenChar);
}

bool IsControl(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// Digits only: no sign, no blank, no overflow.
bool ParseLength(std::string_view text, uint64_t& value) {
  if (text.empty() || text.size() > kMaxLengthDigits) return false;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && text.front() != '-';
}

}  // namespace

bool HttpParser::Fail(int status, std::string message) {
  state_ = HttpParserState::kError;
  error_status_ = status;
  error_ = std::move(message);
  return false;
}

size_t HttpParser::Feed(std::string_view bytes) {
  size_t used = 0;
  while (used < bytes.size() && (state_ == HttpParserState::kHead || state_ == HttpParserState::kBody)) {
    const std::string_view rest = bytes.substr(used);
    switch (step_) {
      case Step::kLine:
        used += FeedLine(rest);
        break;
      case Step::kFixedBody:
      case Step::kEofBody:
      case Step::kChunkData:
        used += FeedBody(rest);
        break;
      case Step::kChunkDataEnd:
        used += FeedChunkDataEnd(rest);
        break;
    }
  }
  return used;
}

void HttpParser::FeedEof() {
  if (state_ == HttpParserState::kDone || state_ == HttpParserState::kError) return;
  if (step_ == Step::kEofBody) {
    Finish();
    return;
  }
  Fail(400, "the connection was closed in the middle of a message");
}

std::string HttpParser::TakeBody() { return std::exchange(body_, {}); }

size_t HttpParser::FeedLine(std::string_view bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    const char c = bytes[i];
    if (line_kind_ == LineKind::kChunkSize) {
      if (line_.size() >= kMaxChunkLineBytes) return Fail(400, "chunk size line too long"), i + 1;
    } else if (++head_bytes_ > limits_.max_head_bytes) {
      const bool start = line_kind_ == LineKind::kStart;
      return Fail(start ? 414 : 431, fmt::format("{} larger than {} bytes",
                                                 start ? "request line" : "headers", limits_.max_head_bytes)),
             i + 1;
    }
    if (saw_cr_) {
      saw_cr_ = false;
      if (c != '\n') return Fail(400, "CR without LF"), i + 1;
      FinishLine();
      return i + 1;
    }
    if (c == '\r') {
      saw_cr_ = true;
    } else if (c == '\n') {
      return Fail(400, "LF without CR"), i + 1;
    } else if (IsControl(c) && c != '\t') {
      return Fail(400, "control byte in a line"), i + 1;
    } else {
      line_.push_back(c);
    }
  }
  return bytes.size();
}

bool HttpParser::FinishLine() {
  const std::string line = std::exchange(line_, {});
  switch (line_kind_) {
    case LineKind::kStart:
      if (line.empty()) {  // RFC 9112 §2.2: one CRLF after a previous body is tolerated
        if (std::exchange(skipped_blank_line_, true)) return Fail(400, "empty request line");
        head_bytes_ = 0;
        return true;
      }
      line_kind_ = LineKind::kHeader;
      return OnStartLine(line);
    case LineKind::kHeader:
      return line.empty() ? OnHeadEnd() : OnHeaderLine(line);
    case LineKind::kChunkSize:
      return OnChunkSizeLine(line);
    case LineKind::kTrailer:
      if (line.empty()) {
        Finish();
        return true;
      }
      if (++trailers_ > limits_.max_headers) return Fail(431, "too many trailers");
      if (!IsToken(line.substr(0, line.find(':'))) || line.find(':') == std::string::npos) {
        return Fail(400, "malformed trailer");
      }
      return true;
  }
  return false;
}

bool HttpParser::OnHeaderLine(std::string_view line) {
  if (line.front() == ' ' || line.front() == '\t') return Fail(400, "folded header line");
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return Fail(400, "header line without a colon");
  const std::string_view name = line.substr(0, colon);
  if (!IsToken(name)) return Fail(400, "malformed header name");
  if (headers().items().size() >= limits_.max_headers) {
    return Fail(431, fmt::format("more than {} headers", limits_.max_headers));
  }
  headers().Add(name, Trim(line.substr(colon + 1)));
  return true;
}

bool HttpParser::ReadFraming(int minor_version, Framing& framing) {
  const size_t codings = headers().Count("Transfer-Encoding");
  const size_t lengths = headers().Count("Content-Length");
  if (codings > 0 && lengths > 0) return Fail(400, "both Content-Length and Transfer-Encoding");
  if (codings > 0) {
    if (minor_version == 0) return Fail(400, "Transfer-Encoding in HTTP/1.0");
    if (codings > 1 || !EqualsIgnoreCase(*headers().Find("Transfer-Encoding"), "chunked")) {
      return Fail(501, "only the transfer coding 'chunked' is supported");
    }
    framing.chunked = true;
  }
  if (lengths > 0) {
    if (lengths > 1) return Fail(400, "repeated Content-Length");
    if (!ParseLength(*headers().Find("Content-Length"), framing.length)) {
      return Fail(400, "malformed Content-Length");
    }
    framing.has_length = true;
    if (framing.length > limits_.max_body_bytes) {
      return Fail(413,
                  fmt::format("body of {} bytes is larger than {}", framing.length, limits_.max_body_bytes));
    }
  }
  return true;
}

void HttpParser::StartBody(const Framing& framing, bool until_eof) {
  state_ = HttpParserState::kBody;
  if (framing.chunked) {
    step_ = Step::kLine;
    line_kind_ = LineKind::kChunkSize;
  } else if (until_eof) {
    step_ = Step::kEofBody;
  } else if (framing.length == 0) {
    Finish();
  } else {
    step_ = Step::kFixedBody;
    body_left_ = framing.length;
  }
}

void HttpParser::Restart() {
  state_ = HttpParserState::kHead;
  step_ = Step::kLine;
  line_kind_ = LineKind::kStart;
  line_.clear();
  saw_cr_ = false;
  skipped_blank_line_ = false;
  head_bytes_ = 0;
  trailers_ = 0;
  body_left_ = 0;
  body_bytes_ = 0;
  body_.clear();
  headers().Clear();
}

bool HttpParser::OnChunkSizeLine(std::string_view line) {
  const size_t digits_end = std::min(line.find_first_not_of("0123456789abcdefABCDEF"), line.size());
  if (digits_end == 0 || digits_end > kMaxChunkSizeDigits) return Fail(400, "malformed chunk size");
  const std::string_view extension = line.substr(digits_end);
  if (!extension.empty() && extension.front() != ';') return Fail(400, "malformed chunk size");
  uint64_t size = 0;
  std::from_chars(line.data(), line.data() + digits_end, size, 16);
  if (size == 0) {
    line_kind_ = LineKind::kTrailer;
    return true;
  }
  if (size > limits_.max_body_bytes - body_bytes_) {
    return Fail(413, fmt::format("body larger than {} bytes", limits_.max_body_bytes));
  }
  step_ = Step::kChunkData;
  body_left_ = size;
  return true;
}

size_t HttpParser::FeedBody(std::string_view bytes) {
  if (step_ == Step::kEofBody) {
    AppendBody(bytes);
    return bytes.size();
  }
  const auto take = static_cast<size_t>(std::min<uint64_t>(body_left_, bytes.size()));
  if (!AppendBody(bytes.substr(0, take))) return take;
  body_left_ -= take;
  if (body_left_ == 0) {
    if (step_ == Step::kFixedBody) {
      Finish();
    } else {
      step_ = Step::kChunkDataEnd;
    }
  }
  return take;
}

size_t HttpParser::FeedChunkDataEnd(std::string_view bytes) {
  const char wanted = saw_cr_ ? '\n' : '\r';
  if (bytes.front() != wanted) return Fail(400, "chunk data not followed by CRLF"), 1;
  if (saw_cr_) {
    step_ = Step::kLine;
    line_kind_ = LineKind::kChunkSize;
  }
  saw_cr_ = !saw_cr_;
  return 1;
}

bool HttpParser::AppendBody(std::string_view bytes) {
  if (bytes.size() > limits_.max_body_bytes - body_bytes_) {
    return Fail(413, fmt::format("body larger than {} bytes", limits_.max_body_bytes));
  }
  body_bytes_ += bytes.size();
  body_.append(bytes);
  return true;
}

bool HttpRequestParser::OnStartLine(std::string_view line) {
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) return Fail(400, "malformed request line");
  const std::string_view method = line.substr(0, first);
  const std::string_view target = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  if (!IsToken(method)) return Fail(400, "malformed method");
  const bool visible = std::all_of(target.begin(), target.end(), [](char c) { return c > 0x20 && c < 0x7f; });
  if (!visible || target.empty() || (target.front() != '/' && target != "*")) {
    return Fail(400, "the request target must be a path");
  }
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    if (version.starts_with("HTTP/")) return Fail(505, "only HTTP/1.0 and HTTP/1.1 are supported");
    return Fail(400, "malformed request line");
  }
  request_.method = method;
  request_.target = target;
  request_.minor_version = version.back() - '0';
  return true;
}

bool HttpRequestParser::OnHeadEnd() {
  const size_t hosts = request_.headers.Count("Host");
  if (hosts > 1 || (hosts == 0 && request_.minor_version == 1)) {
    return Fail(400, "exactly one Host header is required");
  }
  Framing framing;
  if (!ReadFraming(request_.minor_version, framing)) return false;
  if (const auto expect = request_.headers.Find("Expect")) {
    if (!EqualsIgnoreCase(*expect, "100-continue")) return Fail(417, "only 'Expect: 100-continue' is known");
    expects_continue_ = request_.minor_version == 1 && (framing.chunked || framing.length > 0);
  }
  StartBody(framing, /*until_eof=*/false);
  return true;
}

HttpRequest HttpRequestParser::Take() {
  HttpRequest taken = std::move(request_);
  taken.body = TakeBody();
  request_ = HttpRequest();
  expects_continue_ = false;
  Restart();
  return taken;
}

bool HttpResponseParser::OnStartLine(std::string_view line) {
  // "HTTP/1.1 200 OK"; the reason may be empty, and some servers omit its blank too.
  const bool known = line.starts_with("HTTP/1.1 ") || line.starts_with("HTTP/1.0 ");
  if (!known || line.size() < 12 || (line.size() > 12 && line[12] != ' ')) {
    return Fail(502, "malformed status line");
  }
  int status = 0;
  const auto [end, error] = std::from_chars(line.data() + 9, line.data() + 12, status);
  if (error != std::errc() || end != line.data() + 12 || status < 100 || status > 599) {
    return Fail(502, "malformed status code");
  }
  minor_version_ = line[7] - '0';
  response_.status = status;
  return true;
}

bool HttpResponseParser::OnHeadEnd() {
  const int status = response_.status;
  if (status == 101) return Fail(502, "unexpected protocol switch");
  if (status < 200) {  // interim: the real response follows
    Restart();
    return true;
  }
  Framing framing;
  if (!ReadFraming(minor_version_, framing)) return false;
  const HttpHeaders& head = response_.headers;
  const bool wants_more = !head.HasToken("Connection", "close") &&
                          (minor_version_ == 1 || head.HasToken("Connection", "keep-alive"));
  const bool no_body = to_head_ || status == 204 || status == 304;
  const bool until_eof = !no_body && !framing.chunked && !framing.has_length;
  keep_alive_ = wants_more && !until_eof;
  StartBody(no_body ? Framing() : framing, until_eof);
  return true;
}

}  // namespace kvplane::server

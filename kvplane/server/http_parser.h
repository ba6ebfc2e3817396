// Incremental, strict HTTP/1.1 parser for requests and responses (RFC 9110, RFC 9112).
//
// One automaton, fed byte by byte, so that any split of the byte stream gives the same result (tested as a
// property, fuzzed). Where the RFC lets a recipient be lenient this one is strict, because every leniency is
// a chance for two parsers in a chain to disagree on where a message ends: it rejects bare LF and CR, folded
// lines, blanks before the colon, control bytes, Content-Length together with Transfer-Encoding, repeated
// Content-Length, any transfer coding but "chunked", and versions other than 1.0 and 1.1. Chunk extensions
// and trailers are read, bounded, and dropped.
//
// Thread safety: none. Memory: bounded by the limits plus the caller's piece.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "kvplane/server/http_message.h"

namespace kvplane::server {

struct HttpLimits {
  size_t max_head_bytes = 32 << 10;    // start line, headers and trailers; beyond: 431
  size_t max_headers = 100;            // beyond: 431
  uint64_t max_body_bytes = 16 << 20;  // decoded body; beyond: 413
};

enum class HttpParserState {
  kHead,   // reading the start line or headers
  kBody,   // the head is complete
  kDone,   // the message is complete; Feed consumes no more
  kError,  // error_status() and error() say why; Feed consumes no more
};

// The part requests and responses share: lines, headers, body framing.
class HttpParser {
 public:
  virtual ~HttpParser() = default;
  HttpParser(const HttpParser&) = delete;
  HttpParser& operator=(const HttpParser&) = delete;

  // Consumes bytes until the message is complete or wrong; returns how many. What is left over belongs to the
  // next message.
  size_t Feed(std::string_view bytes);
  // The peer closed its side. A message that the close does not end is an error.
  void FeedEof();

  HttpParserState state() const { return state_; }
  bool head_complete() const { return state_ == HttpParserState::kBody || state_ == HttpParserState::kDone; }
  // True until the first byte of a message.
  bool idle() const { return state_ == HttpParserState::kHead && head_bytes_ == 0; }
  int error_status() const { return error_status_; }  // HTTP status that tells a client
  const std::string& error() const { return error_; }

  // The decoded body bytes collected since the last call.
  std::string TakeBody();

 protected:
  explicit HttpParser(const HttpLimits& limits) : limits_(limits) {}

  // Each returns false after Fail().
  virtual bool OnStartLine(std::string_view line) = 0;
  virtual bool OnHeadEnd() = 0;
  virtual HttpHeaders& headers() = 0;
  virtual bool tolerates_eof_body() const = 0;

  bool Fail(int status, std::string message);
  bool OnHeaderLine(std::string_view line);
  // Reads Content-Length and Transfer-Encoding; `minor_version` 0 has no chunked coding.
  struct Framing {
    bool chunked = false;
    bool has_length = false;
    uint64_t length = 0;
  };
  bool ReadFraming(int minor_version, Framing& framing);
  void StartBody(const Framing& framing, bool until_eof);
  // Forgets the message read so far and expects another head.
  void Restart();

  HttpLimits limits_;

 private:
  enum class Step { kLine, kFixedBody, kEofBody, kChunkData, kChunkDataEnd };
  enum class LineKind { kStart, kHeader, kChunkSize, kTrailer };

  size_t FeedLine(std::string_view bytes);
  bool FinishLine();
  bool OnChunkSizeLine(std::string_view line);
  size_t FeedBody(std::string_view bytes);
  size_t FeedChunkDataEnd(std::string_view bytes);
  bool AppendBody(std::string_view bytes);
  void Finish() { state_ = HttpParserState::kDone; }

  HttpParserState state_ = HttpParserState::kHead;
  Step step_ = Step::kLine;
  LineKind line_kind_ = LineKind::kStart;
  std::string line_;
  bool saw_cr_ = false;
  bool skipped_blank_line_ = false;
  size_t head_bytes_ = 0;
  size_t trailers_ = 0;
  uint64_t body_left_ = 0;  // of the fixed body or the current chunk
  uint64_t body_bytes_ = 0;
  std::string body_;
  int error_status_ = 0;
  std::string error_;
};

class HttpRequestParser final : public HttpParser {
 public:
  explicit HttpRequestParser(const HttpLimits& limits) : HttpParser(limits) {}

  const HttpRequest& request() const { return request_; }
  // The complete message, body included; requires state() == kDone. The parser is ready for the next one.
  HttpRequest Take();
  // The client waits for "100 Continue" before it sends the body.
  bool expects_continue() const { return expects_continue_; }

 private:
  bool OnStartLine(std::string_view line) override;
  bool OnHeadEnd() override;
  HttpHeaders& headers() override { return request_.headers; }
  bool tolerates_eof_body() const override { return false; }

  HttpRequest request_;
  bool expects_continue_ = false;
};

class HttpResponseParser final : public HttpParser {
 public:
  // `to_head`: the request was HEAD, so no body follows whatever the headers say.
  explicit HttpResponseParser(const HttpLimits& limits, bool to_head = false)
      : HttpParser(limits), to_head_(to_head) {}

  int status() const { return response_.status; }
  const HttpHeaders& response_headers() const { return response_.headers; }
  // The connection may carry another request after this response.
  bool keep_alive() const { return keep_alive_; }

 private:
  bool OnStartLine(std::string_view line) override;
  bool OnHeadEnd() override;
  HttpHeaders& headers() override { return response_.headers; }
  bool tolerates_eof_body() const override { return true; }

  HttpResponse response_;
  int minor_version_ = 1;
  bool to_head_ = false;
  bool keep_alive_ = false;
};

}  // namespace kvplane::server

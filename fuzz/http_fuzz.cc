// Bytes as an HTTP request, as a response, as an API body and as an address: any split of the stream gives
// the same result, and what is accepted can be written and read again.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "kvplane/server/api_request.h"
#include "kvplane/server/browser_guard.h"
#include "kvplane/server/http_endpoint.h"
#include "kvplane/server/http_parser.h"
#include "kvplane/server/routed_request.h"

namespace {

using kvplane::server::HttpLimits;
using kvplane::server::HttpParser;
using kvplane::server::HttpParserState;
using kvplane::server::HttpRequest;
using kvplane::server::HttpRequestParser;
using kvplane::server::HttpResponseParser;

void Require(bool condition) {
  if (!condition) std::abort();
}

HttpLimits SmallLimits() {
  HttpLimits limits;
  limits.max_head_bytes = 512;  // within reach of short inputs
  limits.max_headers = 8;
  limits.max_body_bytes = 2048;
  return limits;
}

size_t FeedInPieces(HttpParser& parser, std::string_view bytes, size_t piece) {
  size_t used = 0;
  while (used < bytes.size()) {
    const size_t given = std::min(piece, bytes.size() - used);
    const size_t taken = parser.Feed(bytes.substr(used, given));
    used += taken;
    if (taken < given) break;
  }
  return used;
}

template <typename Parser>
void CompareSplits(std::string_view bytes, size_t piece) {
  Parser whole(SmallLimits());
  Parser split(SmallLimits());
  Require(whole.Feed(bytes) == FeedInPieces(split, bytes, piece));
  Require(whole.state() == split.state());
  Require(whole.error() == split.error());
  Require(whole.error_status() == split.error_status());
  Require(whole.TakeBody() == split.TakeBody());
}

void RoundTrip(std::string_view bytes) {
  HttpRequestParser parser(SmallLimits());
  parser.Feed(bytes);
  if (parser.state() != HttpParserState::kDone) return;
  const HttpRequest request = parser.Take();
  HttpLimits limits;
  HttpRequestParser again(limits);
  const std::string wire = SerializeRequest(request, "host");
  Require(again.Feed(wire) == wire.size());
  Require(again.state() == HttpParserState::kDone);
  const HttpRequest read = again.Take();
  Require(read.method == request.method && read.target == request.target && read.body == request.body);
}

// The bytes as the address of a node, and as what a client may claim about itself.
void Addresses(std::string_view bytes) {
  if (const auto node = kvplane::server::ParseHttpEndpoint(bytes); node.ok()) {
    const auto again =
        kvplane::server::ParseHttpEndpoint((node->tls ? "https://" : "http://") + node->Authority());
    Require(again.ok() && *again == *node);
  }
  HttpRequest request;
  request.method = "POST";
  request.headers.Set("Host", bytes);
  Require(request.host().size() <= bytes.size());
  const kvplane::server::BrowserGuard guard("127.0.0.1", {});
  Require(guard.Refuse(request).has_value());  // with a right host, for its type
  request.headers.Set("Host", "localhost");
  request.headers.Set("Content-Type", bytes);
  (void)guard.Refuse(request);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const size_t piece = 1 + data[0] % 16;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  CompareSplits<HttpRequestParser>(bytes, piece);
  CompareSplits<HttpResponseParser>(bytes, piece);
  RoundTrip(bytes);
  Addresses(bytes);
  const auto kind = data[0] & 16 ? kvplane::server::ApiKind::kChat : kvplane::server::ApiKind::kCompletion;
  const auto request = kvplane::server::ParseApiRequest(kind, bytes);
  if (!request) Require(request.error().status == 400);
  (void)kvplane::server::RoutedRequest::Parse(std::string(bytes));
  return 0;
}

#include "kvplane/server/http_parser.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/server/http_message.h"

namespace kvplane::server {
namespace {

constexpr std::string_view kPost =
    "POST /v1/completions?x=1 HTTP/1.1\r\nHost: localhost:8000\r\nContent-Type: application/json\r\n"
    "Content-Length: 11\r\n\r\n{\"a\": true}";
constexpr std::string_view kChunked =
    "POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: Chunked\r\n\r\n"
    "4\r\nwiki\r\nA;ext=1\r\npedia in\r\n\r\n0\r\nTrailer: x\r\n\r\n";

// Everything a caller can see of a parse, as text.
std::string Describe(HttpRequestParser& parser, size_t used) {
  std::string out = std::to_string(static_cast<int>(parser.state())) + " used " + std::to_string(used) + "\n";
  if (parser.state() == HttpParserState::kError) {
    return out + std::to_string(parser.error_status()) + " " + parser.error();
  }
  if (parser.state() != HttpParserState::kDone) return out;
  const HttpRequest request = parser.Take();
  out += request.method + " " + request.target + " 1." + std::to_string(request.minor_version) + "\n";
  for (const HttpHeader& header : request.headers.items()) out += header.name + "=" + header.value + "\n";
  return out + request.body;
}

std::string ParseWhole(std::string_view bytes, const HttpLimits& limits = {}) {
  HttpRequestParser parser(limits);
  const size_t used = parser.Feed(bytes);
  return Describe(parser, used);
}

int ErrorOf(std::string_view bytes, const HttpLimits& limits = {}) {
  HttpRequestParser parser(limits);
  parser.Feed(bytes);
  return parser.state() == HttpParserState::kError ? parser.error_status() : 0;
}

TEST(HttpParserUnit, ReadsARequest) {
  HttpRequestParser parser(HttpLimits{});
  EXPECT_TRUE(parser.idle());
  EXPECT_EQ(parser.Feed(std::string(kPost) + "GET / HTTP"), kPost.size());
  ASSERT_EQ(parser.state(), HttpParserState::kDone);
  const HttpRequest request = parser.Take();
  EXPECT_EQ(request.method, "POST");
  EXPECT_EQ(request.target, "/v1/completions?x=1");
  EXPECT_EQ(request.path(), "/v1/completions");
  EXPECT_EQ(*request.headers.Find("content-TYPE"), "application/json");
  EXPECT_EQ(request.body, "{\"a\": true}");
  EXPECT_TRUE(request.keep_alive());
  EXPECT_TRUE(parser.idle());
}

TEST(HttpParserUnit, ReadsAChunkedBody) {
  HttpRequestParser parser(HttpLimits{});
  EXPECT_EQ(parser.Feed(kChunked), kChunked.size());
  ASSERT_EQ(parser.state(), HttpParserState::kDone);
  EXPECT_EQ(parser.Take().body, "wikipedia in\r\n");
}

TEST(HttpParserUnit, KeepAliveFollowsVersionAndHeader) {
  const auto keep = [](std::string_view bytes) {
    HttpRequestParser parser(HttpLimits{});
    parser.Feed(bytes);
    EXPECT_EQ(parser.state(), HttpParserState::kDone) << bytes;
    return parser.Take().keep_alive();
  };
  EXPECT_TRUE(keep("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_FALSE(keep("GET / HTTP/1.1\r\nHost: x\r\nConnection: foo, Close\r\n\r\n"));
  EXPECT_FALSE(keep("GET / HTTP/1.0\r\n\r\n"));
  EXPECT_TRUE(keep("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
  EXPECT_TRUE(keep("\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"));  // one empty line before is tolerated
}

TEST(HttpParserUnit, ExpectContinue) {
  HttpRequestParser parser(HttpLimits{});
  parser.Feed("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
  EXPECT_EQ(parser.state(), HttpParserState::kBody);
  EXPECT_TRUE(parser.expects_continue());
  parser.Feed("abc");
  EXPECT_EQ(parser.Take().body, "abc");
  EXPECT_FALSE(parser.expects_continue());
  EXPECT_EQ(ErrorOf("GET / HTTP/1.1\r\nHost: x\r\nExpect: wonders\r\n\r\n"), 417);
}

TEST(HttpParserSafety, RefusesWhatTwoParsersMightReadDifferently) {
  const std::string_view head = "POST / HTTP/1.1\r\nHost: x\r\n";
  const std::vector<std::pair<std::string, int>> cases = {
      {"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", 400},
      {"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400},
      {"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400},
      {"Content-Length: 3, 3\r\n\r\nabc", 400},
      {"Content-Length: +3\r\n\r\nabc", 400},
      {"Content-Length: -3\r\n\r\nabc", 400},
      {"Content-Length: 0x3\r\n\r\nabc", 400},
      {"Content-Length: \r\n\r\n", 400},
      {"Content-Length: 99999999999999999999\r\n\r\n", 400},
      {"Content-Length : 3\r\n\r\nabc", 400},
      {"Transfer-Encoding: chunked, identity\r\n\r\n", 501},
      {"Transfer-Encoding: gzip\r\n\r\n", 501},
      {"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 501},
      {"Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400},
      {"Transfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n", 400},
      {"Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n", 400},
      {"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n", 400},
      {"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\n", 400},
      {"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n", 400},
      {"Transfer-Encoding: chunked\r\n\r\n7FFFFFFFFFFFFFF\r\n", 413},
      {"Transfer-Encoding: chunked\r\n\r\n0\r\nno colon\r\n\r\n", 400},
      {"A: b\r\n folded\r\n\r\n", 400},
      {"A: b\nC: d\r\n\r\n", 400},
      {"A: b\rC: d\r\n\r\n", 400},
      {std::string("A: b\0c\r\n\r\n", 10), 400},
      {"A: b\x7f\r\n\r\n", 400},
      {"no colon\r\n\r\n", 400},
      {": no name\r\n\r\n", 400},
      {"B@d: x\r\n\r\n", 400},
      {"Host: y\r\n\r\n", 400},
  };
  for (const auto& [rest, status] : cases) EXPECT_EQ(ErrorOf(std::string(head) + rest), status) << rest;
}

TEST(HttpParserSafety, RefusesBadStartLines) {
  EXPECT_EQ(ErrorOf("GET / HTTP/2.0\r\n"), 505);
  EXPECT_EQ(ErrorOf("GET / HTTP/1.2\r\n"), 505);
  EXPECT_EQ(ErrorOf("GET / http/1.1\r\n"), 400);
  EXPECT_EQ(ErrorOf("GET /\r\n"), 400);
  EXPECT_EQ(ErrorOf("GET  HTTP/1.1\r\n"), 400);
  EXPECT_EQ(ErrorOf("G@T / HTTP/1.1\r\n"), 400);
  EXPECT_EQ(ErrorOf("GET /a b HTTP/1.1\r\n"), 400);
  EXPECT_EQ(ErrorOf("GET http://other/ HTTP/1.1\r\n"), 400);
  EXPECT_EQ(ErrorOf("GET /\xc3\xa4 HTTP/1.1\r\n"), 400);
  EXPECT_EQ(ErrorOf("\r\n\r\nGET / HTTP/1.1\r\n"), 400);
  EXPECT_EQ(ErrorOf("\n"), 400);
  EXPECT_EQ(ErrorOf("GET / HTTP/1.1\r\n\r\n"), 400);  // no Host
  EXPECT_EQ(ErrorOf("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
}

TEST(HttpParserSafety, BoundsEverything) {
  HttpLimits limits;
  limits.max_head_bytes = 200;
  limits.max_headers = 3;
  limits.max_body_bytes = 8;
  EXPECT_EQ(ErrorOf("GET /" + std::string(300, 'a'), limits), 414);
  EXPECT_EQ(ErrorOf("GET / HTTP/1.1\r\nHost: x\r\nA: " + std::string(300, 'a'), limits), 431);
  EXPECT_EQ(ErrorOf("GET / HTTP/1.1\r\nHost: x\r\nA: 1\r\nB: 2\r\nC: 3\r\n", limits), 431);
  EXPECT_EQ(ErrorOf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", limits), 413);
  EXPECT_EQ(ErrorOf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n", limits), 0);
  const std::string chunked = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  EXPECT_EQ(ErrorOf(chunked + "5\r\nabcde\r\n4\r\n", limits), 413);
  EXPECT_EQ(ErrorOf(chunked + "1;" + std::string(300, 'a'), limits), 400);
  std::string trailers = chunked + "0\r\n";
  for (int i = 0; i < 10; ++i) trailers += "T: 1\r\n";
  EXPECT_EQ(ErrorOf(trailers, limits), 431);
}

TEST(HttpParserProperty, AnySplitGivesTheSameResult) {
  std::vector<std::string> inputs = {
      std::string(kPost), std::string(kChunked), std::string(kPost) + std::string(kChunked),
      "GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", std::string(kChunked).replace(70, 1, "\n")};
  base::Rng rng(11);
  for (int i = 0; i < 300; ++i) {  // broken ones too
    std::string broken = i % 2 ? std::string(kPost) : std::string(kChunked);
    broken[rng.Below(broken.size())] = static_cast<char>(rng.Below(256));
    inputs.push_back(broken);
  }
  for (const std::string& input : inputs) {
    const std::string expected = ParseWhole(input);
    for (int round = 0; round < 8; ++round) {
      HttpRequestParser parser(HttpLimits{});
      size_t used = 0;
      while (used < input.size()) {
        const size_t piece = round == 0 ? 1 : 1 + rng.Below(20);
        const size_t taken = parser.Feed(std::string_view(input).substr(used, piece));
        used += taken;
        if (taken < std::min(piece, input.size() - used + taken)) break;
      }
      EXPECT_EQ(Describe(parser, used), expected) << input;
    }
  }
}

TEST(HttpParserProperty, WrittenChunksReadBack) {
  base::Rng rng(5);
  for (int round = 0; round < 50; ++round) {
    std::string body, wire = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (uint64_t i = rng.Below(6); i > 0; --i) {
      std::string piece(rng.Below(70'000), static_cast<char>('a' + i));
      AppendChunk(wire, piece);
      body += piece;
    }
    wire += kLastChunk;
    HttpResponseParser parser(HttpLimits{});
    EXPECT_EQ(parser.Feed(wire), wire.size());
    EXPECT_EQ(parser.state(), HttpParserState::kDone);
    EXPECT_TRUE(parser.TakeBody() == body);
    EXPECT_TRUE(parser.keep_alive());
  }
}

TEST(HttpParserUnit, ReadsResponses) {
  HttpResponseParser interim(HttpLimits{});
  interim.Feed(
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"
      "Content-Length: 2\r\nConnection: close\r\n\r\nno");
  EXPECT_EQ(interim.state(), HttpParserState::kDone);
  EXPECT_EQ(interim.status(), 503);
  EXPECT_EQ(*interim.response_headers().Find("retry-after"), "1");
  EXPECT_FALSE(interim.keep_alive());
  EXPECT_EQ(interim.TakeBody(), "no");

  HttpResponseParser until_close(HttpLimits{});
  until_close.Feed("HTTP/1.0 200 OK\r\n\r\nabc");
  EXPECT_EQ(until_close.state(), HttpParserState::kBody);
  until_close.FeedEof();
  EXPECT_EQ(until_close.state(), HttpParserState::kDone);
  EXPECT_EQ(until_close.TakeBody(), "abc");

  HttpResponseParser head_only(HttpLimits{}, /*to_head=*/true);
  head_only.Feed("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n");
  EXPECT_EQ(head_only.state(), HttpParserState::kDone);

  HttpResponseParser cut(HttpLimits{});
  cut.Feed("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
  cut.FeedEof();
  EXPECT_EQ(cut.state(), HttpParserState::kError);
}

TEST(HttpParserSafety, RefusesBadResponses) {
  for (const std::string_view bytes :
       {"HTTP/2 200\r\n", "HTTP/1.1 2000 OK\r\n", "HTTP/1.1 20\r\n", "HTTP/1.1 abc\r\n", "HTTP/1.1 700 X\r\n",
        "ICY 200 OK\r\n", "HTTP/1.1 101 Switching\r\n\r\n"}) {
    HttpResponseParser parser(HttpLimits{});
    parser.Feed(bytes);
    EXPECT_EQ(parser.state(), HttpParserState::kError) << bytes;
  }
}

TEST(HttpMessageUnit, SerialisesHeads) {
  HttpResponse response;
  response.status = 404;
  response.headers.Add("Content-Type", "application/json");
  response.headers.Add("Content-Length", "999");         // framing is the serialiser's
  response.headers.Add("X-Evil", "a\r\nSet-Cookie: b");  // dropped
  response.body = "{}";
  EXPECT_EQ(SerializeResponseHead(response, BodyFraming::kLength, true),
            "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
            "Connection: keep-alive\r\n\r\n");
  EXPECT_EQ(SerializeResponseHead(HttpResponse(), BodyFraming::kChunked, false),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
  HttpRequest request;
  request.method = "POST";
  request.target = "/x";
  request.body = "abc";
  EXPECT_EQ(SerializeRequest(request, "h:1"),
            "POST /x HTTP/1.1\r\nHost: h:1\r\nContent-Length: 3\r\n\r\nabc");
}

TEST(HttpMessageUnit, Sse) {
  EXPECT_EQ(SseEvent("{}"), "data: {}\n\n");
  EXPECT_EQ(SseEvent("a\nb"), "data: a\ndata: b\n\n");
}

}  // namespace
}  // namespace kvplane::server

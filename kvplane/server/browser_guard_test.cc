// What a web page can make a browser send, and what clients send.
#include "kvplane/server/browser_guard.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "kvplane/server/testing/demo_node.h"
#include "kvplane/server/testing/raw_client.h"

namespace kvplane::server {
namespace {

using testing::Call;
using testing::DemoNode;

constexpr std::string_view kBody = R"({"prompt": "x", "max_tokens": 1})";

HttpRequest Request(const std::string& method, const std::string& host, const std::string& type = "") {
  HttpRequest request;
  request.method = method;
  if (!host.empty()) request.headers.Set("Host", host);
  if (!type.empty()) request.headers.Set("Content-Type", type);
  return request;
}

int Verdict(const BrowserGuard& guard, const HttpRequest& request) {
  const auto refusal = guard.Refuse(request);
  return refusal ? refusal->status : 200;
}

TEST(BrowserGuardUnit, OnLoopbackOnlyItsOwnNamesAreAnswered) {
  const BrowserGuard guard("127.0.0.1", {"node-1"});
  for (const std::string host : {"localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:8000", "[::1]:8000",
                                 "[::1]", "10.1.2.3:80", "node-1", "Node-1:8000"}) {
    EXPECT_EQ(Verdict(guard, Request("GET", host)), 200) << host;
  }
  for (const std::string host :
       {"evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example",
        "node-1.evil.example", "node-11", ":80", "[evil.example]:80", "[::1"}) {
    EXPECT_EQ(Verdict(guard, Request("GET", host)), 403) << host;
  }
  EXPECT_EQ(Verdict(guard, Request("GET", "")), 200) << "HTTP/1.0: no browser";
}

TEST(BrowserGuardUnit, OnAPublicAddressNamesCountWhenTheyAreGiven) {
  EXPECT_EQ(Verdict(BrowserGuard("0.0.0.0", {}), Request("GET", "node-1:8000")), 200);
  EXPECT_EQ(Verdict(BrowserGuard("0.0.0.0", {"node-1"}), Request("GET", "node-1:8000")), 200);
  EXPECT_EQ(Verdict(BrowserGuard("0.0.0.0", {"node-1"}), Request("GET", "evil.example")), 403);
}

TEST(BrowserGuardUnit, PostsAreJson) {
  for (const std::string bound : {"127.0.0.1", "0.0.0.0"}) {
    const BrowserGuard guard(bound, {});
    for (const std::string type : {"application/json", "Application/JSON", "application/json; charset=utf-8",
                                   "application/json ;charset=utf-8"}) {
      EXPECT_EQ(Verdict(guard, Request("POST", "localhost", type)), 200) << type;
    }
    for (const std::string type :
         {"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
          "text/plain; application/json", "application/jsonp"}) {
      EXPECT_EQ(Verdict(guard, Request("POST", "localhost", type)), 415) << type;
    }
  }
  EXPECT_EQ(Verdict(BrowserGuard(), Request("POST", "evil.example", "text/plain")), 200) << "a token decides";
}

TEST(BrowserGuardSafety, ANodeWithoutTokenServesNoWebPage) {
  DemoNode node;
  const auto post = [&](std::string_view headers) {
    return Call(node.port(), "POST", "/v1/completions", kBody, headers).status;
  };
  EXPECT_EQ(post(""), 200);
  EXPECT_EQ(post("Host: evil.example\r\n"), 403);
  EXPECT_EQ(post("Content-Type: text/plain\r\n"), 415);
  EXPECT_EQ(Call(node.port(), "POST", "/v1/kv/withdraw", "", "Content-Type: text/plain\r\n").status, 415)
      << "also without a body";
  const auto models = Call(node.port(), "GET", "/v1/models", "", "Host: evil.example\r\n");
  EXPECT_EQ(models.status, 403);
  EXPECT_EQ(nlohmann::json::parse(models.body)["error"]["type"], "permission_error");
  EXPECT_EQ(Call(node.port(), "GET", "/metrics", "", "Host: evil.example\r\n").status, 403);
  EXPECT_EQ(Call(node.port(), "GET", "/health", "", "Host: evil.example\r\n").status, 200) << "says nothing";
  EXPECT_EQ(Call(node.port(), "OPTIONS", "/v1/completions", "", "Origin: http://evil.example\r\n").status,
            405)
      << "what a page must ask before it may send JSON";
  EXPECT_EQ(node.engine().stats().requests_finished, 1u);
}

}  // namespace
}  // namespace kvplane::server

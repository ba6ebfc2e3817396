#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/server/api_auth.h"
#include "kvplane/server/http_endpoint.h"
#include "kvplane/server/node_choice.h"
#include "kvplane/server/random_id.h"
#include "kvplane/server/routed_request.h"

namespace kvplane::server {
namespace {

using nlohmann::json;

NodeView Node(NodeRole role, uint64_t bytes, uint32_t requests, bool healthy = true) {
  NodeView node;
  node.role = role;
  node.healthy = healthy;
  node.serves_kv = role == NodeRole::kPrefill;
  node.model_fingerprint = "m";
  node.outstanding_prompt_bytes = bytes;
  node.outstanding_requests = requests;
  return node;
}

TEST(NodeChoiceUnit, LeastPromptBytesAndLeastRequests) {
  const std::vector<NodeView> nodes = {Node(NodeRole::kPrefill, 500, 0), Node(NodeRole::kPrefill, 100, 9),
                                       Node(NodeRole::kDecode, 0, 4), Node(NodeRole::kDecode, 9000, 3)};
  const NodeChoice choice = ChooseNodes(nodes, {});
  EXPECT_EQ(choice.prefill, 1u);
  EXPECT_EQ(choice.decode, 3u);
}

TEST(NodeChoiceUnit, IdleNodesShare) {
  // Nodes of the other role in between must not give their neighbours their turns.
  const std::vector<NodeView> nodes = {Node(NodeRole::kPrefill, 0, 0), Node(NodeRole::kPrefill, 0, 0),
                                       Node(NodeRole::kDecode, 0, 0),  Node(NodeRole::kDecode, 0, 0),
                                       Node(NodeRole::kDecode, 0, 0),  Node(NodeRole::kDecode, 0, 7)};
  std::vector<int> counts(nodes.size());
  for (uint64_t turn = 0; turn < 6; ++turn) {
    const NodeChoice choice = ChooseNodes(nodes, {.turn = turn});
    ++counts[*choice.prefill];
    ++counts[*choice.decode];
  }
  EXPECT_EQ(counts, (std::vector<int>{3, 3, 2, 2, 2, 0}));
}

TEST(NodeChoiceUnit, PlainWhereItCannotBeSplit) {
  std::vector<NodeView> nodes = {Node(NodeRole::kPrefill, 0, 0), Node(NodeRole::kDecode, 0, 0)};
  EXPECT_TRUE(ChooseNodes(nodes, {}).prefill.has_value());
  EXPECT_FALSE(ChooseNodes(nodes, {.splittable = false}).prefill.has_value());
  EXPECT_FALSE(ChooseNodes(nodes, {.excluded = {0}}).prefill.has_value());
  nodes[0].serves_kv = false;
  EXPECT_FALSE(ChooseNodes(nodes, {}).prefill.has_value());
  nodes[0].serves_kv = true;
  nodes[0].model_fingerprint = "another";
  EXPECT_FALSE(ChooseNodes(nodes, {}).prefill.has_value());
  EXPECT_EQ(ChooseNodes(nodes, {}).decode, 1u);
}

TEST(NodeChoiceUnit, NoDecodeNodeIsNoNode) {
  const std::vector<NodeView> nodes = {Node(NodeRole::kPrefill, 0, 0), Node(NodeRole::kDecode, 0, 0, false)};
  EXPECT_FALSE(ChooseNodes(nodes, {}).decode.has_value());
  EXPECT_FALSE(ChooseNodes(nodes, {}).prefill.has_value());
  EXPECT_FALSE(ChooseNodes({}, {}).decode.has_value());
}

TEST(NodeChoiceProperty, AgainstBruteForce) {
  base::Rng rng(3);
  for (int round = 0; round < 2000; ++round) {
    std::vector<NodeView> nodes;
    for (uint64_t i = rng.Below(6); i > 0; --i) {
      const NodeRole role = rng.Below(2) != 0 ? NodeRole::kPrefill : NodeRole::kDecode;
      nodes.push_back(Node(role, rng.Below(3), static_cast<uint32_t>(rng.Below(3)), rng.Below(3) != 0));
    }
    const NodeChoice choice = ChooseNodes(nodes, {.turn = rng.Below(100)});
    uint32_t fewest = UINT32_MAX;
    for (const NodeView& node : nodes) {
      if (node.role == NodeRole::kDecode && node.healthy)
        fewest = std::min(fewest, node.outstanding_requests);
    }
    ASSERT_EQ(choice.decode.has_value(), fewest != UINT32_MAX);
    if (!choice.decode) continue;
    EXPECT_TRUE(nodes[*choice.decode].healthy);
    EXPECT_EQ(nodes[*choice.decode].role, NodeRole::kDecode);
    EXPECT_EQ(nodes[*choice.decode].outstanding_requests, fewest);
  }
}

TEST(RoutedRequestUnit, SplitsOnlySinglePromptsAndChoices) {
  const auto splittable = [](std::string_view body) {
    return RoutedRequest::Parse(std::string(body))->splittable();
  };
  EXPECT_TRUE(splittable(R"({"prompt": "a"})"));
  EXPECT_TRUE(splittable(R"({"prompt": [1, 2]})"));
  EXPECT_TRUE(splittable(R"({"prompt": ["a"], "n": 1})"));
  EXPECT_TRUE(splittable(R"({"messages": [{"role": "user", "content": "x"}], "n": null})"));
  EXPECT_FALSE(splittable(R"({"prompt": ["a", "b"]})"));
  EXPECT_FALSE(splittable(R"({"prompt": [[1], [2]]})"));
  EXPECT_FALSE(splittable(R"({"prompt": "a", "n": 2})"));
  EXPECT_FALSE(splittable(R"({"prompt": "a", "kv_transfer_params": {"do_remote_decode": true}})"));
  EXPECT_FALSE(splittable(R"({})"));
  EXPECT_EQ(RoutedRequest::Parse("nope").error().status, 400);
  const std::string deep = std::string(500'000, '[') + std::string(500'000, ']');
  EXPECT_EQ(RoutedRequest::Parse(R"({"prompt": )" + deep + "}").error().status, 400);
}

TEST(RoutedRequestUnit, WritesBothHalves) {
  const auto request = RoutedRequest::Parse(
      R"({"prompt": "abc", "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 50,
          "max_completion_tokens": 60, "min_tokens": 5, "logprobs": 2, "kvplane": {"strategy": "int8"}})");
  ASSERT_TRUE(request.has_value());
  EXPECT_TRUE(request->stream());
  EXPECT_EQ(request->prompt_bytes(), 3u);
  const json prefill = json::parse(request->PrefillBody("id"));
  EXPECT_EQ(prefill, json::parse(R"({"prompt": "abc", "stream": false, "max_tokens": 1, "logprobs": 2,
      "kvplane": {"strategy": "int8"},
      "kv_transfer_params": {"do_remote_decode": true, "do_remote_prefill": false, "transfer_id": "id"}})"));
  const json decode = json::parse(request->DecodeBody({"id", "e", "host", 7}));
  EXPECT_EQ(decode["max_tokens"], 50);
  EXPECT_EQ(decode["stream"], true);
  EXPECT_EQ(decode["kv_transfer_params"]["do_remote_prefill"], true);
  EXPECT_EQ(decode["kv_transfer_params"]["remote_port"], 7);
  EXPECT_EQ(decode["kv_transfer_params"]["transfer_id"], "id");
}

TEST(HttpEndpointUnit, ReadsAddresses) {
  EXPECT_EQ(ParseHttpEndpoint("http://127.0.0.1:8000")->Authority(), "127.0.0.1:8000");
  EXPECT_FALSE(ParseHttpEndpoint("http://127.0.0.1:8000")->tls);
  EXPECT_TRUE(ParseHttpEndpoint("https://node")->tls);
  EXPECT_EQ(ParseHttpEndpoint("https://node")->Authority(), "node:443");
  EXPECT_EQ(ParseHttpEndpoint("http://node-1/")->port, 80);
  EXPECT_EQ(ParseHttpEndpoint("node-1:9")->host, "node-1");
  EXPECT_EQ(ParseHttpEndpoint("http://[::1]:9")->Authority(), "[::1]:9");
  for (const char* bad :
       {"", "http://", "ftp://a:1", "https://", "http://a:", "http://a:0", "http://a:99999", "http://a:x", "http://a/b",
        "http://u@a:1", "http://[::1", "http://[::1]x", "a b:1"}) {
    EXPECT_FALSE(ParseHttpEndpoint(bad).ok()) << bad;
  }
}

TEST(ApiAuthUnit, ComparesBearerTokens) {
  const ApiAuth auth = ApiAuth::FromTokens({"secret", "other"});
  const auto allows = [&](std::string_view value) {
    HttpRequest request;
    request.headers.Set("Authorization", value);
    return auth.Allows(request);
  };
  EXPECT_TRUE(allows("Bearer secret"));
  EXPECT_TRUE(allows("bearer other"));
  EXPECT_FALSE(allows("Bearer secre"));
  EXPECT_FALSE(allows("Bearer secrets"));
  EXPECT_FALSE(allows("Bearer "));
  EXPECT_FALSE(allows("Basic secret"));
  EXPECT_FALSE(auth.Allows(HttpRequest()));
  EXPECT_TRUE(ApiAuth().Allows(HttpRequest()));
}

TEST(ApiAuthUnit, ReadsTokenFiles) {
  const std::string path = ::testing::TempDir() + "/kvplane_tokens";
  const auto write = [&](std::string_view text) { std::ofstream(path) << text; };
  write("# comment\n\nabc\r\ndef\n");
  const auto auth = ApiAuth::FromFile(path);
  ASSERT_TRUE(auth.ok());
  EXPECT_EQ(auth->token(), "abc");
  write("# nothing\n");
  EXPECT_EQ(ApiAuth::FromFile(path).status().code(), base::StatusCode::kInvalidArgument);
  write("two words\n");
  EXPECT_EQ(ApiAuth::FromFile(path).status().code(), base::StatusCode::kInvalidArgument);
  EXPECT_EQ(ApiAuth::FromFile("/dev/zero").status().code(), base::StatusCode::kInvalidArgument);  // no end
  std::remove(path.c_str());
  EXPECT_EQ(ApiAuth::FromFile(path).status().code(), base::StatusCode::kNotFound);
}

TEST(ApiAuthUnit, PublicAddressesNeedAToken) {
  EXPECT_TRUE(CheckBindPolicy("127.0.0.1", false, false).ok());
  EXPECT_TRUE(CheckBindPolicy("::1", false, false).ok());
  EXPECT_EQ(CheckBindPolicy("0.0.0.0", false, false).code(), base::StatusCode::kPermissionDenied);
  EXPECT_TRUE(CheckBindPolicy("0.0.0.0", true, false).ok());
  EXPECT_TRUE(CheckBindPolicy("0.0.0.0", false, true).ok());
}

TEST(RandomIdUnit, HexOfTheLengthAskedAndDifferent) {
  const std::string id = RandomHex(16);
  EXPECT_EQ(id.size(), 32u);
  EXPECT_EQ(id.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_NE(id, RandomHex(16));
}

}  // namespace
}  // namespace kvplane::server

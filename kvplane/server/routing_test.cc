#include <fmt/core.h>
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
#include "kvplane/server/prefix_index.h"
#include "kvplane/server/random_id.h"
#include "kvplane/server/routed_request.h"

namespace kvplane::server {
namespace {

using nlohmann::json;

NodeView Node(NodeRole role, uint64_t bytes, uint32_t requests, bool healthy = true) {
  return {.role = role,
          .healthy = healthy,
          .serves_kv = role == NodeRole::kPrefill,
          .model_fingerprint = "m",
          .outstanding_prompt_bytes = bytes,
          .outstanding_requests = requests};
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

TEST(NodeChoiceUnit, APrefixDrawsAsFarAsItSavesWork) {
  std::vector<NodeView> nodes = {Node(NodeRole::kPrefill, 0, 0), Node(NodeRole::kPrefill, 0, 0),
                                 Node(NodeRole::kDecode, 0, 0)};
  ChoiceRequest request{.prompt_bytes = 80'000, .cached_bytes = {0, 64'000, 0}};
  EXPECT_EQ(PrefillWork(request, 0), 80'000u);
  EXPECT_EQ(PrefillWork(request, 1), 16'000u + 8'000u);
  for (uint64_t turn = 0; turn < 4; ++turn) {
    request.turn = turn;
    EXPECT_EQ(ChooseNodes(nodes, request).prefill, 1u);
  }
  nodes[1].outstanding_prompt_bytes = 55'999;
  EXPECT_EQ(ChooseNodes(nodes, request).prefill, 1u) << "still done first";
  nodes[1].outstanding_prompt_bytes = 56'001;
  EXPECT_EQ(ChooseNodes(nodes, request).prefill, 0u) << "to compute it again is faster than to queue for it";
  nodes[0].healthy = false;
  EXPECT_EQ(ChooseNodes(nodes, request).prefill, 1u);
  EXPECT_EQ(PrefillWork({.prompt_bytes = 10, .cached_bytes = {99}}, 0), 1u) << "never more than the prompt";
}

TEST(NodeChoiceUnit, ADecodeNodeThatMustPrefillIsChosenByBothKindsOfWork) {
  std::vector<NodeView> nodes = {Node(NodeRole::kDecode, 0, 1), Node(NodeRole::kDecode, 0, 2)};
  ChoiceRequest request{.splittable = false, .prompt_bytes = 80'000};
  EXPECT_EQ(ChooseNodes(nodes, request).decode, 0u);
  request.cached_bytes = {0, 40'000};
  EXPECT_EQ(ChooseNodes(nodes, request).decode, 1u) << "holds half of it";
  nodes[1].outstanding_requests = 200;
  EXPECT_EQ(ChooseNodes(nodes, request).decode, 0u);
  nodes[1].outstanding_requests = 2;
  request.splittable = true;
  EXPECT_EQ(ChooseNodes(nodes, request).decode, 1u) << "no prefill node is there";
  nodes.push_back(Node(NodeRole::kPrefill, 0, 0));
  EXPECT_EQ(ChooseNodes(nodes, request).decode, 0u) << "where KV is pulled, only the batch counts";
}

// Every choice costs no more than any other node's would have.
TEST(NodeChoiceProperty, AgainstBruteForce) {
  base::Rng rng(3);
  for (int round = 0; round < 4000; ++round) {
    std::vector<NodeView> nodes;
    ChoiceRequest request{
        .splittable = rng.Below(4) != 0, .turn = rng.Below(100), .prompt_bytes = rng.Below(9000)};
    for (uint64_t i = rng.Below(6); i > 0; --i) {
      const NodeRole role = rng.Below(2) != 0 ? NodeRole::kPrefill : NodeRole::kDecode;
      nodes.push_back(
          Node(role, rng.Below(3) * 4000, static_cast<uint32_t>(rng.Below(3)), rng.Below(3) != 0));
      request.cached_bytes.push_back(rng.Below(2) * rng.Below(9000));
    }
    const NodeChoice choice = ChooseNodes(nodes, request);
    const auto cost = [&](size_t i, bool split) -> uint64_t {
      const uint64_t work = nodes[i].outstanding_prompt_bytes + PrefillWork(request, i);
      if (nodes[i].role == NodeRole::kPrefill) return work;
      return split ? nodes[i].outstanding_requests
                   : nodes[i].outstanding_requests * kRunningRequestBytes + work;
    };
    bool prefills = false, decodes = false;
    for (const NodeView& node : nodes) {
      prefills = prefills || (node.healthy && node.role == NodeRole::kPrefill);
      decodes = decodes || (node.healthy && node.role == NodeRole::kDecode);
    }
    const bool split = request.splittable && prefills && decodes;
    ASSERT_EQ(choice.decode.has_value(), decodes);
    ASSERT_EQ(choice.prefill.has_value(), split);
    for (size_t i = 0; i < nodes.size(); ++i) {
      const auto& chosen = nodes[i].role == NodeRole::kPrefill ? choice.prefill : choice.decode;
      if (!nodes[i].healthy || !chosen) continue;
      EXPECT_TRUE(nodes[*chosen].healthy && nodes[*chosen].role == nodes[i].role);
      EXPECT_LE(cost(*chosen, split), cost(i, split));
    }
  }
}

TEST(RoutedRequestUnit, KnowsWhatAPromptBeginsWith) {
  const auto chunks = [](const json& body) { return RoutedRequest::Parse(body.dump())->prefix_chunks(); };
  const std::string text(4 * kPromptChunkBytes, 'x');
  const std::vector<uint64_t> plain = chunks({{"prompt", text}, {"max_tokens", 5}});
  ASSERT_EQ(plain.size(), 4u);
  EXPECT_EQ(chunks({{"temperature", 0}, {"prompt", text}}), plain) << "sampling does not matter";
  EXPECT_NE(chunks({{"prompt", text}, {"model", "m"}})[0], plain[0]);
  EXPECT_EQ(chunks({{"prompt", text + "more"}}), plain);

  json messages =
      json::array({{{"role", "system"}, {"content", text}}, {{"role", "user"}, {"content", text}}});
  const std::vector<uint64_t> first = chunks({{"messages", messages}});
  messages.push_back({{"role", "assistant"}, {"content", text}});
  const std::vector<uint64_t> second = chunks({{"messages", messages}});
  ASSERT_GT(second.size(), first.size());
  EXPECT_EQ(std::vector<uint64_t>(second.begin(), second.begin() + static_cast<ptrdiff_t>(first.size())),
            first)
      << "a conversation that goes on";
  EXPECT_NE(chunks({{"messages", messages}, {"tools", json::array({{{"type", "function"}}})}})[0], first[0]);

  const auto request = RoutedRequest::Parse(json{{"prompt", text}}.dump());
  EXPECT_EQ(request->BytesOfChunks(0), 0u);
  EXPECT_NEAR(double(request->BytesOfChunks(2)), 2.0 * kPromptChunkBytes, 20);
  EXPECT_EQ(request->BytesOfChunks(1000), request->prompt_bytes());
  EXPECT_EQ(RoutedRequest::Parse("{}")->BytesOfChunks(3), 0u);
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
  EXPECT_FALSE(splittable(R"({})"));
  EXPECT_EQ(RoutedRequest::Parse("nope").error().status, 400);
  const std::string deep = std::string(500'000, '[') + std::string(500'000, ']');
  EXPECT_EQ(RoutedRequest::Parse(R"({"prompt": )" + deep + "}").error().status, 400);
}

// They would make a decode node connect to wherever the client says, and tell what it found there.
TEST(RoutedRequestSafety, ClientsDoNotSayWhereKvComesFrom) {
  const auto parse = [](std::string_view params) {
    return RoutedRequest::Parse(fmt::format(R"({{"prompt": "a", "kv_transfer_params": {}}})", params));
  };
  for (const std::string_view params :
       {R"({"do_remote_prefill": true, "transfer_id": "t", "remote_host": "10.0.0.1", "remote_port": 22})",
        R"({"do_remote_decode": true})", "{}", "7", "false"}) {
    const auto refused = parse(params);
    ASSERT_FALSE(refused.has_value()) << params;
    EXPECT_EQ(refused.error().status, 400);
    EXPECT_EQ(refused.error().param, "kv_transfer_params");
  }
  const auto absent = parse("null");
  ASSERT_TRUE(absent.has_value());
  EXPECT_TRUE(absent->splittable());
}

TEST(RoutedRequestUnit, WritesBothHalves) {
  const auto request = RoutedRequest::Parse(
      R"({"prompt": "abc", "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 50,
          "max_completion_tokens": 60, "min_tokens": 5, "logprobs": 2, "kvplane": {"strategy": "int8"}})");
  ASSERT_TRUE(request.has_value());
  EXPECT_TRUE(request->stream());
  EXPECT_EQ(request->prompt_bytes(), 3u);
  const SplitBodies bodies = request->Split({"id", "e", "host", 7});
  const json prefill = json::parse(bodies.prefill);
  EXPECT_EQ(prefill, json::parse(R"({"prompt": "abc", "stream": false, "max_tokens": 1, "logprobs": 2,
      "kvplane": {"strategy": "int8"},
      "kv_transfer_params": {"do_remote_decode": true, "do_remote_prefill": false, "transfer_id": "id"}})"));
  const json decode = json::parse(bodies.decode);
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
       {"", "http://", "ftp://a:1", "https://", "http://a:", "http://a:0", "http://a:99999", "http://a:x",
        "http://a/b", "http://u@a:1", "http://[::1", "http://[::1]x", "http://[[a]", "a b:1"}) {
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
  EXPECT_EQ(CheckBindPolicy("127.0.0.1.example", false, false).code(), base::StatusCode::kInvalidArgument);
  EXPECT_EQ(CheckBindPolicy("localhost", false, false).code(), base::StatusCode::kInvalidArgument);
  EXPECT_EQ(CheckBindPolicy("::", false, false).code(), base::StatusCode::kPermissionDenied);
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

// Who sends which heads to whom, and whole transfers between groups that cut the model differently.
#include "kvplane/transfer/head_shards.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>
#include <vector>

#include "kvplane/transfer/testing/kv_fixture.h"
#include "kvplane/transport/inproc_transport.h"

namespace kvplane::transfer {
namespace {

using base::StatusCode;

TEST(HeadShardsUnit, EvenAndUnevenShares) {
  EXPECT_EQ(HeadsOfRank(8, 1, 0), (HeadRange{0, 8}));
  EXPECT_EQ(HeadsOfRank(8, 4, 3), (HeadRange{6, 2}));
  EXPECT_EQ(HeadsOfRank(8, 3, 0), (HeadRange{0, 3}));
  EXPECT_EQ(HeadsOfRank(8, 3, 1), (HeadRange{3, 3}));
  EXPECT_EQ(HeadsOfRank(8, 3, 2), (HeadRange{6, 2}));
  EXPECT_EQ(HeadsOfRank(2, 8, 3), (HeadRange{0, 1}));
  EXPECT_EQ(HeadsOfRank(2, 8, 4), (HeadRange{1, 1}));
  EXPECT_EQ(HeadsOfRank(2, 3, 1), (HeadRange{0, 1}));
  EXPECT_EQ(HeadsOfRank(2, 3, 2), (HeadRange{1, 1}));
}

TEST(HeadShardsUnit, TwoToThree) {
  const auto routes = RouteHeads(8, 2, 3);
  ASSERT_TRUE(routes.ok());
  EXPECT_EQ(*routes,
            (std::vector<HeadRoute>{{0, 0, {0, 3}}, {0, 1, {3, 1}}, {1, 1, {4, 2}}, {1, 2, {6, 2}}}));
}

// Every head of every receiver once, and only from ranks that hold it, for all small groups.
TEST(HeadShardsProperty, EveryReceiverIsServedExactly) {
  for (uint32_t heads = 1; heads <= 12; ++heads) {
    for (uint32_t senders = 1; senders <= 14; ++senders) {
      for (uint32_t receivers = 1; receivers <= 14; ++receivers) {
        const auto routes = RouteHeads(heads, senders, receivers);
        ASSERT_TRUE(routes.ok());
        std::map<uint32_t, std::multiset<uint32_t>> got;
        for (const HeadRoute& route : *routes) {
          const HeadRange held = HeadsOfRank(heads, senders, route.sender);
          ASSERT_GE(route.heads.first, held.first);
          ASSERT_LE(route.heads.first + route.heads.count, held.first + held.count);
          for (uint32_t i = 0; i < route.heads.count; ++i) got[route.receiver].insert(route.heads.first + i);
        }
        for (uint32_t receiver = 0; receiver < receivers; ++receiver) {
          const HeadRange wanted = HeadsOfRank(heads, receivers, receiver);
          ASSERT_GE(wanted.count, 1u);
          std::multiset<uint32_t> expected;
          for (uint32_t i = 0; i < wanted.count; ++i) expected.insert(wanted.first + i);
          ASSERT_EQ(got[receiver], expected) << heads << " heads, " << senders << " to " << receivers;
        }
      }
    }
  }
}

TEST(HeadShardsSafety, ImpossibleGroupsAreRefused) {
  EXPECT_EQ(RouteHeads(0, 1, 1).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(RouteHeads(8, 0, 1).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(RouteHeads(8, 1, 0).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(RouteHeads(1u << 20, 1, 1).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(RouteHeads(8, 1u << 20, 1).status().code(), StatusCode::kInvalidArgument);
}

// One rank of a group: its share of the heads in pages of its own.
struct Rank {
  Rank(const tensor::KvGeometry& model, HeadRange share, uint32_t tokens, uint32_t block_tokens)
      : heads(share), pages(Geometry(model.layers, share.count, model.head_dim), tokens, block_tokens) {}
  HeadRange heads;
  KvPages pages;
};

uint16_t Expected(uint32_t layer, tensor::Side side, uint32_t token, uint32_t head, uint32_t i) {
  const uint32_t number = ((layer * 2 + static_cast<uint32_t>(side)) * 1000 + token) * 97 + head * 13 + i;
  return tensor::FloatToBf16(static_cast<float>(number % 509) / 64.0f - 4.0f);
}

class ShardedGroups {
 public:
  ShardedGroups(const tensor::KvGeometry& model, uint32_t tokens, uint32_t senders, uint32_t receivers)
      : model_(model), tokens_(tokens) {
    for (uint32_t rank = 0; rank < senders; ++rank) {
      prefill_.push_back(
          std::make_unique<Rank>(model, HeadsOfRank(model.kv_heads, senders, rank), tokens, 64));
      ForEach(*prefill_.back(), [](uint16_t& value, uint16_t expected) { value = expected; });
    }
    for (uint32_t rank = 0; rank < receivers; ++rank) {
      decode_.push_back(
          std::make_unique<Rank>(model, HeadsOfRank(model.kv_heads, receivers, rank), tokens, 32));
      decode_.back()->pages.Fill(0x7fff);
    }
  }

  void Move(Ends& ends, const std::string& strategy, std::shared_ptr<const codec::ModelProfile> profile) {
    std::vector<std::unique_ptr<Completion>> completions;
    const auto routes = RouteHeads(model_.kv_heads, static_cast<uint32_t>(prefill_.size()),
                                   static_cast<uint32_t>(decode_.size()));
    ASSERT_TRUE(routes.ok());
    for (const HeadRoute& route : *routes) {
      Rank& from = *prefill_[route.sender];
      Rank& to = *decode_[route.receiver];
      KvDescriptor descriptor =
          Describe(Geometry(model_.layers, route.heads.count, model_.head_dim), tokens_);
      descriptor.first_head = route.heads.first;
      descriptor.model_kv_heads = model_.kv_heads;
      KvOffer offer;
      offer.transfer_id =
          fmt::format("{}-{}-{}", strategy, route.sender * 100 + route.receiver, route.heads.first);
      offer.descriptor = descriptor;
      offer.strategy = *codec::Strategy::Parse(strategy);
      offer.profile = profile;
      offer.layers = from.pages.layers();
      offer.first_page_head = route.heads.first - from.heads.first;
      offer.deadline = After(kTestPatience);
      offer.expects_first_token = false;
      KvPull pull;
      pull.endpoint = ends.sender->endpoint();
      pull.transfer_id = offer.transfer_id;
      pull.descriptor = descriptor;
      pull.layers = to.pages.layers();
      pull.first_page_head = route.heads.first - to.heads.first;
      pull.deadline = offer.deadline;
      completions.push_back(std::make_unique<Completion>());
      pull.on_complete = completions.back()->on_complete();
      auto session = ends.sender->Offer(std::move(offer));
      ASSERT_TRUE(session.ok()) << session.status().ToString();
      for (uint32_t layer = 0; layer < model_.layers; ++layer) (*session)->PostLayer(layer, 0, tokens_);
      const auto pulled = ends.receiver->Pull(std::move(pull));
      ASSERT_TRUE(pulled.ok()) << pulled.status().ToString();
    }
    for (const auto& completion : completions) {
      const TransferOutcome outcome = completion->Wait();
      EXPECT_TRUE(outcome.status.ok()) << outcome.status.ToString();
    }
  }

  size_t Differences() {
    size_t differences = 0;
    for (const auto& rank : decode_) {
      ForEach(*rank, [&](uint16_t value, uint16_t expected) { differences += value != expected ? 1u : 0u; });
    }
    return differences;
  }

  // The values of all decode ranks, by head of the model.
  std::vector<uint16_t> Decoded() {
    std::vector<uint16_t> values;
    for (uint32_t layer = 0; layer < model_.layers; ++layer) {
      for (const tensor::Side side : tensor::kSides) {
        for (uint32_t token = 0; token < tokens_; ++token) {
          for (uint32_t head = 0; head < model_.kv_heads; ++head) {
            for (const auto& rank : decode_) {
              if (head < rank->heads.first || head >= rank->heads.first + rank->heads.count) continue;
              const uint16_t* at = rank->pages.at(layer, side, token, head - rank->heads.first);
              values.insert(values.end(), at, at + model_.head_dim);
              break;
            }
          }
        }
      }
    }
    return values;
  }

 private:
  template <typename Visit>
  void ForEach(Rank& rank, const Visit& visit) {
    for (uint32_t layer = 0; layer < model_.layers; ++layer) {
      for (const tensor::Side side : tensor::kSides) {
        for (uint32_t token = 0; token < tokens_; ++token) {
          for (uint32_t head = 0; head < rank.heads.count; ++head) {
            uint16_t* at = rank.pages.at(layer, side, token, head);
            for (uint32_t i = 0; i < model_.head_dim; ++i) {
              visit(at[i], Expected(layer, side, token, rank.heads.first + head, i));
            }
          }
        }
      }
    }
  }

  tensor::KvGeometry model_;
  uint32_t tokens_;
  std::vector<std::unique_ptr<Rank>> prefill_;
  std::vector<std::unique_ptr<Rank>> decode_;
};

TEST(HeadShardsProperty, TransfersBetweenUnequalGroupsAreExact) {
  auto transport = transport::CreateInprocTransport();
  const std::pair<uint32_t, uint32_t> groups[] = {{1, 1}, {1, 3}, {3, 1}, {2, 3},
                                                  {3, 2}, {4, 6}, {6, 4}, {8, 2}};
  for (const auto& [senders, receivers] : groups) {
    Ends ends(*transport, "inproc://prefill");
    ShardedGroups kv(Geometry(2, 6, 32), 150, senders, receivers);
    kv.Move(ends, "off", nullptr);
    EXPECT_EQ(kv.Differences(), 0u) << senders << " to " << receivers;
  }
}

// What a head is coded with (its profile's means, steps, signs) is the model's head, not the shard's: the
// same values arrive however the groups are cut.
TEST(HeadShardsProperty, ProfilesCountHeadsOfTheModel) {
  auto transport = transport::CreateInprocTransport();
  const tensor::KvGeometry model = Geometry(2, 6, 32);
  const auto profile = ProfileFor(model);
  KvReceiverOptions receive;
  receive.profiles.Add(profile);
  const std::string strategy = "centre(scope=static) | hadamard() | levels(m=16,axis=channel) | pack";
  std::vector<uint16_t> whole;
  const std::pair<uint32_t, uint32_t> groups[] = {{1, 1}, {2, 3}, {6, 1}};
  for (const auto& [senders, receivers] : groups) {
    Ends ends(*transport, "inproc://prefill", {}, receive);
    ShardedGroups kv(model, 100, senders, receivers);
    kv.Move(ends, strategy, profile);
    const std::vector<uint16_t> decoded = kv.Decoded();
    if (whole.empty()) whole = decoded;
    EXPECT_EQ(decoded, whole) << senders << " to " << receivers;
  }
}

TEST(HeadShardsSafety, ShardsMustFitTheModelAndThePages) {
  auto transport = transport::CreateInprocTransport();
  Ends ends(*transport, "inproc://prefill");
  TestTransfer transfer(Geometry(1, 2, 32), 64);
  const auto refused = [&](uint32_t first_head, uint32_t model_heads, uint32_t page_head,
                           std::string strategy) {
    KvOffer offer = transfer.MakeOffer("x", strategy);
    offer.descriptor.first_head = first_head;
    offer.descriptor.model_kv_heads = model_heads;
    offer.first_page_head = page_head;
    return ends.sender->Offer(std::move(offer)).status().code();
  };
  EXPECT_EQ(refused(7, 8, 0, "off"), StatusCode::kInvalidArgument);         // heads 7 and 8 of 8
  EXPECT_EQ(refused(0, 1, 0, "off"), StatusCode::kInvalidArgument);         // 2 of 1
  EXPECT_EQ(refused(0, 1u << 20, 0, "off"), StatusCode::kInvalidArgument);  // absurd
  EXPECT_EQ(refused(4, 8, 1, "off"), StatusCode::kInvalidArgument);         // pages of 2 heads, from 1
  EXPECT_EQ(refused(4, 8, ~0u, "off"), StatusCode::kInvalidArgument);
}

TEST(HeadShardsSafety, EndsMustAgreeOnTheShard) {
  auto transport = transport::CreateInprocTransport();
  Ends ends(*transport, "inproc://prefill");
  TestTransfer transfer(Geometry(1, 2, 32), 64);
  KvOffer offer = transfer.MakeOffer("x");
  offer.descriptor.first_head = 2;
  offer.descriptor.model_kv_heads = 8;
  KvPull pull = transfer.MakePull(ends.sender->endpoint(), "x");
  pull.descriptor.first_head = 4;
  pull.descriptor.model_kv_heads = 8;
  auto session = ends.sender->Offer(std::move(offer));
  ASSERT_TRUE(session.ok());
  auto pulled = ends.receiver->Pull(std::move(pull));
  ASSERT_TRUE(pulled.ok());
  EXPECT_EQ(transfer.receiver_done.Wait().status.code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(transfer.sender_done.Wait().status.code(), StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace kvplane::transfer

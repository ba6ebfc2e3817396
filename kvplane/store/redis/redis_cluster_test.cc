// A real Redis Cluster that changes under its client: slots move, nodes hang, die and are replaced.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "kvplane/base/endian.h"
#include "kvplane/base/rng.h"
#include "kvplane/store/redis/redis_client.h"
#include "kvplane/store/redis/redis_store.h"
#include "kvplane/store/redis/testing/redis_processes.h"
#include "kvplane/transport/tcp_transport.h"

namespace kvplane::store {
namespace {

using base::StatusCode;

base::TimePoint Soon() { return base::Clock::System().Now() + std::chrono::seconds(60); }

StoreKey Key(uint64_t number) {
  StoreKey key{.tenant = 5};
  base::Rng rng(number + 1);
  for (size_t at = 0; at < key.chain.size(); at += 8) base::StoreLe(&key.chain[at], rng.Next());
  return key;
}

std::string NameOf(uint64_t number) { return RedisKey("kvplane", Key(number)); }

Slice Object(uint64_t number, size_t bytes) {
  std::vector<std::byte> out(bytes);
  base::Rng rng(number + 77);
  for (std::byte& byte : out) byte = static_cast<std::byte>(rng.Next());
  return Slice::Own(std::move(out));
}

class RedisClusterTest : public ::testing::Test {
 protected:
  void Start(const RedisClusterShape& shape) {
    if (!RedisServerInstalled()) GTEST_SKIP() << "redis-server is not installed (package redis-server)";
    auto cluster = RedisCluster::Start(shape);
    ASSERT_TRUE(cluster.ok()) << cluster.status().ToString();
    cluster_ = *std::move(cluster);
    options_.seeds = {cluster_->node(0).address(), cluster_->node(1).address()};
    auto store = CreateRedisStore(options_, *transport_);
    ASSERT_TRUE(store.ok()) << store.status().ToString();
    store_ = *std::move(store);
  }

  base::Status PutObject(uint64_t number, size_t bytes) {
    return store_->Put(Key(number), {.quality = kLossless}, Object(number, bytes), {}, Soon());
  }
  base::Result<Slice> ReadObject(uint64_t number, base::TimePoint deadline = Soon()) {
    const ReadRequest request{Key(number), 0, 0};
    return std::move(store_->Read({&request, 1}, deadline).front());
  }
  bool Holds(uint64_t number, size_t bytes) {
    const auto read = ReadObject(number);
    return read.ok() && std::ranges::equal(read->bytes(), Object(number, bytes).bytes());
  }
  // Which node serves object `number`, as an index.
  size_t NodeOf(uint64_t number) {
    const auto owner = cluster_->OwnerOf(RedisSlot(NameOf(number)), 1);
    EXPECT_TRUE(owner.ok()) << owner.status().ToString();
    for (size_t i = 0; i < cluster_->size(); ++i) {
      if (owner.ok() && cluster_->node(i).address() == *owner) return i;
    }
    return cluster_->size();
  }
  // The first object at or after `from` that node `node` serves.
  uint64_t ObjectOn(size_t node, uint64_t from = 0) {
    while (NodeOf(from) != node) ++from;
    return from;
  }
  // Until the call succeeds; false after half a minute.
  template <typename Call>
  bool Eventually(Call call) {
    for (int tries = 0; tries < 600; ++tries) {
      if (call()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return false;
  }

  RedisOptions options_;
  const std::unique_ptr<transport::Transport> transport_ = transport::CreateTcpTransport();
  std::unique_ptr<RedisCluster> cluster_;
  std::unique_ptr<Store> store_;
};

// The slot of one object moves from node 0 to node 1, step by step as a resharding does it; the object can be
// read, and another one of the slot be put, at every step.
TEST_F(RedisClusterTest, SlotsThatMoveAreFollowedUnit) {
  Start({});
  if (IsSkipped()) return;
  const uint64_t number = ObjectOn(0);
  const std::string slot = std::to_string(RedisSlot(NameOf(number)));
  RedisProcess& from = cluster_->node(0);
  RedisProcess& to = cluster_->node(1);
  RedisClient client(options_, *transport_);
  const auto get = [&] {
    RedisRequest request(RedisSlot(NameOf(number)),
                         std::move(RespCommand(2).Arg("STRLEN").Arg(NameOf(number))), {});
    client.Execute({&request, 1}, Soon());
    return request.reply.ok() ? request.reply->integer : -1;
  };
  ASSERT_TRUE(PutObject(number, 4'000'000).ok());
  const int64_t size = get();
  EXPECT_EQ(size, 4'000'064);
  EXPECT_EQ(client.redirects(), 0u);

  ASSERT_EQ(to.Text({"CLUSTER", "SETSLOT", slot, "IMPORTING", from.id()}), "OK");
  ASSERT_EQ(from.Text({"CLUSTER", "SETSLOT", slot, "MIGRATING", to.id()}), "OK");
  EXPECT_EQ(get(), size) << "still at the source";
  EXPECT_EQ(client.redirects(), 0u);
  ASSERT_EQ(from.Text({"MIGRATE", to.address().host, std::to_string(to.address().port), NameOf(number), "0",
                       "10000"}),
            "OK");
  EXPECT_EQ(get(), size) << "ASK";
  EXPECT_EQ(client.redirects(), 1u);
  EXPECT_TRUE(Holds(number, 4'000'000));
  EXPECT_EQ(get(), size) << "ASK changes no map";
  EXPECT_EQ(client.redirects(), 2u);
  EXPECT_EQ(store_->EraseTenant(4, Soon()).status().code(), StatusCode::kUnavailable)
      << "a slot is on its way";
  ASSERT_TRUE(store_->Erase(Key(number), Soon()).ok());
  ASSERT_TRUE(PutObject(number, 1000).ok()) << "new keys of the slot go to the target";
  EXPECT_EQ(to.Command({"CLUSTER", "COUNTKEYSINSLOT", slot})->integer, 1);

  for (RedisProcess* node : {&to, &from, &cluster_->node(2)}) {
    ASSERT_EQ(node->Text({"CLUSTER", "SETSLOT", slot, "NODE", to.id()}), "OK");
  }
  EXPECT_EQ(get(), 1064) << "MOVED";
  EXPECT_EQ(client.redirects(), 3u);
  EXPECT_EQ(get(), 1064);
  EXPECT_EQ(client.redirects(), 3u) << "the map was corrected";
  EXPECT_TRUE(Holds(number, 1000));
  EXPECT_EQ(*store_->EraseTenant(5, Soon()), 1u);
}

// Redirections that lead nowhere end.
TEST_F(RedisClusterTest, RedirectionsInACircleEndSafety) {
  Start({});
  if (IsSkipped()) return;
  const uint64_t number = ObjectOn(0);
  const std::string slot = std::to_string(RedisSlot(NameOf(number)));
  RedisProcess& owner = cluster_->node(0);
  // Node 0 sends every key it does not hold to node 1, which was not told and sends it back.
  ASSERT_EQ(owner.Text({"CLUSTER", "SETSLOT", slot, "MIGRATING", cluster_->node(1).id()}), "OK");
  const auto read = ReadObject(number);
  EXPECT_EQ(read.status().code(), StatusCode::kUnavailable) << read.status().ToString();
  ASSERT_EQ(owner.Text({"CLUSTER", "SETSLOT", slot, "STABLE"}), "OK");
  EXPECT_EQ(ReadObject(number).status().code(), StatusCode::kNotFound);
}

TEST_F(RedisClusterTest, AKilledMasterIsReplacedSafety) {
  Start({.masters = 3, .replicas = 1, .node_timeout_ms = 600});
  if (IsSkipped()) return;
  const uint64_t lost = ObjectOn(0);
  const uint64_t kept = ObjectOn(1);
  ASSERT_TRUE(PutObject(lost, 200'000).ok());
  ASSERT_TRUE(PutObject(kept, 200'000).ok());
  // The replica has it before its master dies.
  RedisProcess& replica = cluster_->node(3);
  ASSERT_TRUE(Eventually([&] {
    return replica.Command({"DBSIZE"})->integer == cluster_->node(0).Command({"DBSIZE"})->integer;
  }));
  cluster_->node(0).Kill();
  // Until the replica takes over, calls fail, but none waits for its deadline of a minute; what other nodes
  // hold is read as ever.
  const auto at_once = ReadObject(lost);
  EXPECT_TRUE(at_once.ok() || at_once.status().code() == StatusCode::kUnavailable)
      << at_once.status().ToString();
  EXPECT_TRUE(Eventually([&] { return Holds(lost, 200'000); })) << ReadObject(lost).status().ToString();
  EXPECT_TRUE(Eventually([&] { return Holds(kept, 200'000); }));
  EXPECT_EQ(NodeOf(lost), 3u) << "served by the replica now";
  EXPECT_TRUE(PutObject(ObjectOn(3, lost + 1), 1000).ok());
  // The old master comes back as a replica; nothing is read from it.
  ASSERT_TRUE(cluster_->node(0).Restart().ok());
  EXPECT_TRUE(Eventually([&] {
    return cluster_->node(0).Text({"INFO", "replication"}).find("role:slave") != std::string::npos;
  }));
  EXPECT_TRUE(Holds(lost, 200'000));
}

// Without a replica the whole cluster refuses until the node is back.
TEST_F(RedisClusterTest, AClusterThatIsDownIsUsedAgainWhenItIsUpSafety) {
  Start({.masters = 3, .replicas = 0, .node_timeout_ms = 600});
  if (IsSkipped()) return;
  const uint64_t here = ObjectOn(1);
  ASSERT_TRUE(PutObject(here, 1000).ok());
  cluster_->node(0).Kill();
  ASSERT_TRUE(Eventually([&] { return ReadObject(here).status().code() == StatusCode::kUnavailable; }));
  EXPECT_EQ(PutObject(here + 1, 10).code(), StatusCode::kUnavailable);
  EXPECT_FALSE(store_->EraseTenant(5, Soon()).ok()) << "an erasure that may be incomplete is an error";
  ASSERT_TRUE(cluster_->node(0).Restart().ok());
  EXPECT_TRUE(Eventually([&] { return Holds(here, 1000); }));
  EXPECT_TRUE(Eventually([&] { return PutObject(ObjectOn(0), 10).ok(); }));
}

// A node that hangs costs its own keys and nothing else.
TEST_F(RedisClusterTest, AFrozenNodeCostsOnlyItsOwnKeysSafety) {
  Start({.masters = 3, .replicas = 0, .node_timeout_ms = 60'000});
  if (IsSkipped()) return;
  const uint64_t frozen = ObjectOn(0);
  const uint64_t well = ObjectOn(1);
  ASSERT_TRUE(PutObject(frozen, 1000).ok());
  ASSERT_TRUE(PutObject(well, 1000).ok());
  cluster_->node(0).Freeze();
  const ReadRequest both[] = {{Key(frozen), 0, 0}, {Key(well), 0, 0}};
  for (int round = 0; round < 3; ++round) {
    const auto results = store_->Read(both, Soon());
    const StatusCode code = results[0].status().code();
    EXPECT_TRUE(code == StatusCode::kDeadlineExceeded || code == StatusCode::kUnavailable)
        << results[0].status().ToString();
    EXPECT_TRUE(results[1].ok()) << results[1].status().ToString();
  }
  cluster_->node(0).Unfreeze();
  EXPECT_TRUE(Eventually([&] { return Holds(frozen, 1000); }));
}

// Without replica its keys are misses, which say nothing of the rest.
TEST_F(RedisClusterTest, ALookupOfAKilledNodeIsAMissWhenOthersAnswerSafety) {
  Start({.masters = 3, .replicas = 0, .node_timeout_ms = 60'000});
  if (IsSkipped()) return;
  const uint64_t lost = ObjectOn(0);
  const uint64_t well = ObjectOn(1);
  ASSERT_TRUE(PutObject(lost, 1000).ok());
  ASSERT_TRUE(PutObject(well, 1000).ok());
  cluster_->node(0).Kill();
  const auto found = [&](std::vector<StoreKey> keys) { return store_->Lookup(keys, 0, Soon()); };
  EXPECT_EQ(found({Key(lost)}).status().code(), StatusCode::kUnavailable);
  const auto after = found({Key(lost), Key(well)});
  ASSERT_TRUE(after.ok()) << after.status().ToString();
  EXPECT_TRUE(after->empty());
  const auto before = found({Key(well), Key(lost)});
  ASSERT_TRUE(before.ok()) << before.status().ToString();
  EXPECT_EQ(before->size(), 1u);
}

// Callers with short deadlines find out as well, and then no longer wait at all.
TEST_F(RedisClusterTest, AFrozenNodeIsLeftAloneByHurriedCallersSafety) {
  Start({.masters = 3, .replicas = 0, .node_timeout_ms = 60'000});
  if (IsSkipped()) return;
  const uint64_t number = ObjectOn(0);
  ASSERT_TRUE(PutObject(number, 1000).ok());
  cluster_->node(0).Freeze();
  const auto hurried = [&] {
    const auto read = ReadObject(number, base::Clock::System().Now() + std::chrono::milliseconds(100));
    return read.status().code();
  };
  EXPECT_EQ(hurried(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(hurried(), StatusCode::kDeadlineExceeded);
  // Left alone for 50 ms at first, which may pass before a busy machine asks again; then ever longer.
  EXPECT_TRUE(Eventually([&] { return hurried() == StatusCode::kUnavailable; }));
  cluster_->node(0).Unfreeze();
  EXPECT_TRUE(Eventually([&] { return Holds(number, 1000); }));
}

// One connection per node and calls of several batches: a second batch must not wait for the connection that
// another caller holds while that one waits for ours.
TEST_F(RedisClusterTest, CallersOfManyBatchesDoNotWaitForEachOtherSafety) {
  Start({});
  if (IsSkipped()) return;
  options_.connections_per_node = 1;
  RedisClient client(options_, *transport_);
  std::vector<std::string> names;
  for (uint64_t i = 0; i < 2 * 3 * kMaxPipelinedRequests; ++i) names.push_back(NameOf(i));
  std::atomic<size_t> failed{0};
  const auto call = [&] {
    for (int round = 0; round < 8; ++round) {
      std::vector<RedisRequest> requests;
      for (const std::string& name : names) {
        requests.emplace_back(RedisSlot(name), std::move(RespCommand(2).Arg("EXISTS").Arg(name)),
                              RespLimits{.max_bulk_bytes = 0});
      }
      client.Execute(requests, Soon());
      failed += static_cast<size_t>(
          std::ranges::count_if(requests, [](const RedisRequest& request) { return !request.reply.ok(); }));
      if (failed != 0) return;
    }
  };
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) callers.emplace_back(call);
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(failed, 0u);
}

TEST_F(RedisClusterTest, ShutdownWakesACallThatWaitsSafety) {
  Start({.masters = 3, .replicas = 0, .node_timeout_ms = 60'000});
  if (IsSkipped()) return;
  options_.stall_timeout = std::chrono::seconds(60);
  auto patient = CreateRedisStore(options_, *transport_);
  ASSERT_TRUE(patient.ok());
  const uint64_t number = ObjectOn(0);
  ASSERT_TRUE((*patient)->Put(Key(number), {}, Object(number, 100), {}, Soon()).ok());
  cluster_->node(0).Freeze();
  base::Status status;
  std::thread reader([&] {
    const ReadRequest request{Key(number), 0, 0};
    status = (*patient)->Read({&request, 1}, Soon()).front().status();
  });
  (*patient)->Shutdown();  // before, during or after the call has begun to wait
  reader.join();
  EXPECT_EQ(status.code(), StatusCode::kCancelled) << status.ToString();
  cluster_->node(0).Unfreeze();
}

}  // namespace
}  // namespace kvplane::store

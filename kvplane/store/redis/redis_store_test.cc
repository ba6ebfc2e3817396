// The Redis tier on real servers: one that stands alone, and a cluster of three.
#include "kvplane/store/redis/redis_store.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "kvplane/base/endian.h"
#include "kvplane/base/rng.h"
#include "kvplane/store/record.h"
#include "kvplane/store/redis/testing/redis_processes.h"
#include "kvplane/store/testing/store_conformance.h"
#include "kvplane/transport/tcp_transport.h"

namespace kvplane::store {
namespace {

using base::StatusCode;

constexpr const char* kNoRedis = "redis-server is not installed (package redis-server)";

base::TimePoint Soon() { return base::Clock::System().Now() + std::chrono::seconds(60); }

// Servers are started once and emptied between tests. Their destructors end the processes.
RedisProcess* SharedServer() {
  static const auto server = RedisProcess::Start({}, false);
  return server.ok() ? server->get() : nullptr;
}
RedisCluster* SharedCluster() {
  static const auto cluster = RedisCluster::Start({});
  return cluster.ok() ? cluster->get() : nullptr;
}

class RedisHarness : public StoreHarness {
 public:
  explicit RedisHarness(const std::vector<RedisAddress>& seeds) {
    RedisOptions options;
    options.seeds = seeds;
    auto store = CreateRedisStore(options, *transport_);
    EXPECT_TRUE(store.ok());
    store_ = *std::move(store);
  }
  Store& store() override { return *store_; }
  void Advance(base::Duration by) override { std::this_thread::sleep_for(by); }

 private:
  const std::unique_ptr<transport::Transport> transport_ = transport::CreateTcpTransport();
  std::unique_ptr<Store> store_;
};

StoreCase RedisCase(std::string name, std::function<std::unique_ptr<StoreHarness>(uint64_t)> create) {
  StoreCase out{.name = std::move(name), .create = std::move(create)};
  out.bounded = false;
  out.pins = false;
  out.counts_entries = false;
  out.ttl = std::chrono::seconds(1);
  out.random_operations = 500;
  return out;
}

std::unique_ptr<StoreHarness> OnServer(uint64_t) {
  if (SharedServer() == nullptr) return nullptr;
  (void)SharedServer()->Text({"FLUSHALL"});
  return std::make_unique<RedisHarness>(std::vector<RedisAddress>{SharedServer()->address()});
}

std::unique_ptr<StoreHarness> OnCluster(uint64_t) {
  if (SharedCluster() == nullptr) return nullptr;
  SharedCluster()->FlushAll();
  return std::make_unique<RedisHarness>(SharedCluster()->masters());
}

// None without Redis: ConformanceUnit then says why.
std::vector<StoreCase> Cases() {
  if (!RedisServerInstalled()) return {};
  return {RedisCase("RedisServer", OnServer), RedisCase("RedisCluster", OnCluster)};
}

INSTANTIATE_TEST_SUITE_P(Redis, StoreConformance, ::testing::ValuesIn(Cases()), StoreCaseName);

TEST(RedisConformanceUnit, RunsWhereRedisIs) {
  if (!RedisServerInstalled()) GTEST_SKIP() << kNoRedis;
  EXPECT_NE(SharedServer(), nullptr);
  EXPECT_NE(SharedCluster(), nullptr);
}

StoreKey Key(uint64_t number, uint64_t tenant = 5) {
  StoreKey key{.tenant = tenant};
  base::Rng rng(number + 1);
  for (size_t at = 0; at < key.chain.size(); at += 8) base::StoreLe(&key.chain[at], rng.Next());
  return key;
}

Slice Object(uint64_t number, size_t bytes) {
  std::vector<std::byte> out(bytes);
  base::Rng rng(number + 77);
  for (size_t at = 0; at + 8 <= bytes; at += 8) base::StoreLe(&out[at], rng.Next());
  return Slice::Own(std::move(out));
}

bool Same(const Slice& a, const Slice& b) { return std::ranges::equal(a.bytes(), b.bytes()); }

std::string TextOf(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

base::Status PutObject(Store& store, uint64_t number, size_t bytes) {
  return store.Put(Key(number), {.quality = kLossless}, Object(number, bytes), {}, Soon());
}

base::Result<Slice> ReadRange(Store& store, const StoreKey& key, uint64_t offset = 0, uint64_t bytes = 0) {
  const ReadRequest request{key, offset, bytes};
  return std::move(store.Read({&request, 1}, Soon()).front());
}

size_t Found(Store& store, const StoreKey& key) {
  const auto found = store.Lookup({&key, 1}, 0, Soon());
  EXPECT_TRUE(found.ok()) << found.status().ToString();
  return found.ok() ? found->size() : 0;
}

TEST(RedisKeyUnit, SaysTenantAndChain) {
  StoreKey key{.tenant = 0xabc};
  key.chain.fill(std::byte{0x5f});
  EXPECT_EQ(
      RedisKey("kvplane", key), "kvplane:0000000000000abc:" + [] {
        std::string digits;
        for (int i = 0; i < 32; ++i) digits += "5f";
        return digits;
      }());
}

// A server of its own per test.
class RedisStoreTest : public ::testing::Test {
 protected:
  void Start(const std::vector<std::string>& arguments = {}) {
    if (!RedisServerInstalled()) GTEST_SKIP() << kNoRedis;
    auto server = RedisProcess::Start(arguments, false);
    ASSERT_TRUE(server.ok()) << server.status().ToString();
    server_ = *std::move(server);
    store_ = Connect({});
  }

  std::unique_ptr<Store> Connect(RedisOptions options) {
    options.seeds = {server_->address()};
    auto store = CreateRedisStore(options, *transport_);
    EXPECT_TRUE(store.ok()) << store.status().ToString();
    return *std::move(store);
  }

  const std::unique_ptr<transport::Transport> transport_ = transport::CreateTcpTransport();
  std::unique_ptr<RedisProcess> server_;
  std::unique_ptr<Store> store_;
};

TEST_F(RedisStoreTest, SlotsAgreeWithTheServerDiff) {
  if (!RedisServerInstalled()) GTEST_SKIP() << kNoRedis;
  RedisCluster* const cluster = SharedCluster();
  ASSERT_NE(cluster, nullptr);
  base::Rng rng(3);
  for (int round = 0; round < 200; ++round) {
    std::string key(1 + rng.Below(30), ' ');
    for (char& c : key) c = "ab{}{}1:"[rng.Below(8)];
    const auto slot = cluster->node(0).Command({"CLUSTER", "KEYSLOT", key});
    ASSERT_TRUE(slot.ok());
    ASSERT_EQ(RedisSlot(key), slot->integer) << key;
  }
}

// The bytes in Redis are the record that docs/formats/record.md describes, with the time to live as Redis'
// own.
TEST_F(RedisStoreTest, WhatLiesInRedisUnit) {
  Start();
  if (IsSkipped()) return;
  ASSERT_TRUE(store_
                  ->Put(Key(1), {.prefix_bytes = 9, .quality = 800, .ttl = std::chrono::seconds(100)},
                        Object(1, 500), {}, Soon())
                  .ok());
  const std::string name = RedisKey("kvplane", Key(1));
  const std::string value = server_->Text({"GET", name});
  ASSERT_EQ(value.size(), kRecordHeaderBytes + 500);
  const auto header = DecodeRecordHeader(std::as_bytes(std::span(value)), Key(1));
  ASSERT_TRUE(header.ok()) << header.status().ToString();
  EXPECT_EQ(header->quality, 800);
  EXPECT_EQ(header->prefix_bytes, 9u);
  EXPECT_EQ(header->object_bytes, 500u);
  EXPECT_EQ(value.substr(kRecordHeaderBytes), TextOf(Object(1, 500).bytes()));
  const auto ttl = server_->Command({"PTTL", name});
  ASSERT_TRUE(ttl.ok());
  EXPECT_GT(ttl->integer, 0);
  EXPECT_LE(ttl->integer, 100'000);
  EXPECT_EQ(store_->kind(), TierKind::kRedis);
  EXPECT_EQ(store_->name(), "redis://" + server_->address().ToString());
}

TEST_F(RedisStoreTest, DefaultTtlAndPrefixUnit) {
  Start();
  if (IsSkipped()) return;
  RedisOptions options;
  options.prefix = "other";
  options.default_ttl = std::chrono::seconds(50);
  const auto other = Connect(options);
  ASSERT_TRUE(PutObject(*other, 1, 10).ok());
  EXPECT_EQ(Found(*store_, Key(1)), 0u) << "another prefix is another store";
  ASSERT_TRUE(PutObject(*store_, 1, 10).ok());
  EXPECT_GT(server_->Command({"PTTL", RedisKey("other", Key(1))})->integer, 0);
  EXPECT_EQ(server_->Command({"PTTL", RedisKey("kvplane", Key(1))})->integer, -1);
  const auto erased = other->EraseTenant(5, Soon());
  ASSERT_TRUE(erased.ok());
  EXPECT_EQ(*erased, 1u);
  EXPECT_EQ(Found(*store_, Key(1)), 1u);
}

TEST_F(RedisStoreTest, ManyEntriesOfATenantAreErasedUnit) {
  if (!RedisServerInstalled()) GTEST_SKIP() << kNoRedis;
  RedisCluster* const cluster = SharedCluster();
  ASSERT_NE(cluster, nullptr);
  cluster->FlushAll();
  RedisHarness harness(cluster->masters());
  constexpr uint64_t kEntries = 3000;
  for (uint64_t i = 0; i < kEntries; ++i) ASSERT_TRUE(PutObject(harness.store(), i, 16).ok());
  ASSERT_TRUE(harness.store().Put(Key(1, 6), {}, Object(1, 10), {}, Soon()).ok());
  const auto erased = harness.store().EraseTenant(5, Soon());
  ASSERT_TRUE(erased.ok()) << erased.status().ToString();
  EXPECT_EQ(*erased, kEntries);
  EXPECT_EQ(Found(harness.store(), Key(1, 6)), 1u);
  int64_t left = 0;
  for (size_t i = 0; i < 3; ++i) left += cluster->node(i).Command({"DBSIZE"})->integer;
  EXPECT_EQ(left, 1);
}

TEST_F(RedisStoreTest, ThousandsOfRangesInOneReadUnit) {
  if (!RedisServerInstalled()) GTEST_SKIP() << kNoRedis;
  RedisCluster* const cluster = SharedCluster();
  ASSERT_NE(cluster, nullptr);
  cluster->FlushAll();
  RedisHarness harness(cluster->masters());
  constexpr uint64_t kObjects = 20;
  constexpr uint64_t kBytes = 300'000;
  for (uint64_t i = 0; i < kObjects; ++i) ASSERT_TRUE(PutObject(harness.store(), i, kBytes).ok());
  base::Rng rng(9);
  std::vector<ReadRequest> requests;
  std::vector<uint64_t> numbers;
  for (int i = 0; i < 5000; ++i) {  // several batches per node
    const uint64_t number = rng.Below(kObjects + 1);
    const uint64_t offset = rng.Below(kBytes);
    const uint64_t bytes = 1 + rng.Below(std::min<uint64_t>(kBytes - offset, i % 50 == 0 ? kBytes : 2000));
    requests.push_back({Key(number), offset, bytes});
    numbers.push_back(number);
  }
  const auto results = harness.store().Read(requests, Soon());
  ASSERT_EQ(results.size(), requests.size());
  for (size_t i = 0; i < results.size(); ++i) {
    if (numbers[i] == kObjects) {
      EXPECT_EQ(results[i].status().code(), StatusCode::kNotFound);
      continue;
    }
    ASSERT_TRUE(results[i].ok()) << results[i].status().ToString();
    const Slice expected = Object(numbers[i], kBytes).Sub(requests[i].offset, requests[i].bytes);
    ASSERT_TRUE(Same(*results[i], expected)) << "request " << i;
  }
}

TEST_F(RedisStoreTest, LargeValuesUnit) {
  Start();
  if (IsSkipped()) return;
  constexpr size_t kBytes = 100 << 20;
  const Slice object = Object(1, kBytes);
  ASSERT_TRUE(store_->Put(Key(1), {.quality = kLossless}, object, {}, Soon()).ok());
  const auto whole = ReadRange(*store_, Key(1));
  ASSERT_TRUE(whole.ok()) << whole.status().ToString();
  EXPECT_TRUE(Same(*whole, object));
}

TEST_F(RedisStoreTest, ValuesAboveTheLimitOfRedisAreRefusedSafety) {
  Start();
  if (IsSkipped()) return;
  constexpr size_t kBytes = kMaxRedisValueBytes - kRecordHeaderBytes + 1;
  void* const space = ::mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(space, MAP_FAILED);
  const Slice huge(nullptr, {static_cast<const std::byte*>(space), kBytes});
  EXPECT_EQ(store_->Put(Key(1), {}, huge, {}, Soon()).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(store_->stats().puts_refused, 1u);
  ::munmap(space, kBytes);
}

TEST_F(RedisStoreTest, DamagedRecordsAreMissesAndRemovedSafety) {
  Start();
  if (IsSkipped()) return;
  const auto header = [](uint64_t bytes, uint64_t key) {
    return TextOf(EncodeRecordHeader({.object_bytes = bytes, .quality = 1, .key = Key(key)}));
  };
  const std::string name = RedisKey("kvplane", Key(1));
  const std::vector<std::vector<std::string>> damages = {
      {"SET", name, "x"},
      {"SET", name, std::string(200, 'x')},
      {"SET", name, header(100, 2) + std::string(100, 'x')},  // of another key
      {"SET", name, header(100, 1) + std::string(99, 'x')},   // cut
      {"SET", name, header(100, 1) + std::string(101, 'x')},
      {"LPUSH", name, "a list"},
  };
  uint64_t corrupt = 0;
  for (const std::vector<std::string>& damage : damages) {
    ASSERT_NE(server_->Text(damage).substr(0, 3), "ERR");
    const auto whole = ReadRange(*store_, Key(1));
    EXPECT_EQ(whole.status().code(), StatusCode::kCorrupt) << damage[2].size();
    EXPECT_EQ(server_->Command({"EXISTS", name})->integer, 0);
    EXPECT_EQ(store_->stats().corrupt, ++corrupt);
    EXPECT_EQ(ReadRange(*store_, Key(1)).status().code(), StatusCode::kNotFound);
  }
  // A range of a record that was cut, and a lookup of what is none.
  (void)server_->Text({"SET", name, header(100, 1) + std::string(50, 'x')});
  EXPECT_EQ(ReadRange(*store_, Key(1), 40, 20).status().code(), StatusCode::kCorrupt);
  EXPECT_EQ(server_->Command({"EXISTS", name})->integer, 0);
  (void)server_->Text({"SET", name, "not a record"});
  EXPECT_EQ(Found(*store_, Key(1)), 0u);
  EXPECT_EQ(server_->Command({"EXISTS", name})->integer, 0);
  // Over damage a put goes through.
  (void)server_->Text({"SET", name, "not a record"});
  ASSERT_TRUE(PutObject(*store_, 1, 10).ok());
  EXPECT_TRUE(ReadRange(*store_, Key(1)).ok());
}

// Damage that cannot be removed because the server is away is remembered until new bytes lie there.
TEST_F(RedisStoreTest, QuarantineHoldsWhileTheServerIsAwaySafety) {
  Start();
  if (IsSkipped()) return;
  ASSERT_TRUE(PutObject(*store_, 1, 100).ok());
  server_->Freeze();
  store_->Quarantine(Key(1));
  server_->Unfreeze();
  while (server_->Command({"EXISTS", RedisKey("kvplane", Key(1))})->integer == 0) {
    // The frozen server may have found the UNLINK in its socket: put the damage back.
    const std::string damaged =
        TextOf(EncodeRecordHeader({.object_bytes = 1, .quality = kLossless, .key = Key(1)})) + "x";
    ASSERT_EQ(server_->Text({"SET", RedisKey("kvplane", Key(1)), damaged}), "OK");
  }
  size_t found = 1;
  for (int tries = 0; tries < 100 && found != 0; ++tries) {
    const StoreKey key = Key(1);
    const auto lookup = store_->Lookup({&key, 1}, 0, Soon());
    if (lookup.ok()) found = lookup->size();
    if (!lookup.ok()) std::this_thread::sleep_for(std::chrono::milliseconds(50));  // left alone for a moment
  }
  EXPECT_EQ(found, 0u);
  EXPECT_EQ(ReadRange(*store_, Key(1)).status().code(), StatusCode::kNotFound);
  ASSERT_TRUE(PutObject(*store_, 1, 50).ok());
  EXPECT_EQ(ReadRange(*store_, Key(1))->size(), 50u);
}

TEST_F(RedisStoreTest, EvictionsAreMissesUnit) {
  Start({"--maxmemory", "24mb", "--maxmemory-policy", "allkeys-lru"});
  if (IsSkipped()) return;
  constexpr uint64_t kObjects = 60;
  for (uint64_t i = 0; i < kObjects; ++i) ASSERT_TRUE(PutObject(*store_, i, 1 << 20).ok()) << i;
  uint64_t hits = 0, misses = 0;
  for (uint64_t i = 0; i < kObjects; ++i) {
    const auto read = ReadRange(*store_, Key(i));
    if (read.ok()) {
      ++hits;
      EXPECT_TRUE(Same(*read, Object(i, 1 << 20)));
    } else {
      ++misses;
      EXPECT_EQ(read.status().code(), StatusCode::kNotFound) << read.status().ToString();
    }
  }
  EXPECT_GT(hits, 0u);
  EXPECT_GT(misses, 0u);
  EXPECT_EQ(store_->stats().errors, 0u);
}

TEST_F(RedisStoreTest, AFullServerRefusesPutsUnit) {
  Start({"--maxmemory", "8mb", "--maxmemory-policy", "noeviction"});
  if (IsSkipped()) return;
  base::Status status;
  for (uint64_t i = 0; i < 20 && status.ok(); ++i) status = PutObject(*store_, i, 1 << 20);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.ToString();
  EXPECT_EQ(store_->stats().puts_refused, 1u);
  EXPECT_TRUE(ReadRange(*store_, Key(0)).ok());
}

TEST_F(RedisStoreTest, PasswordsUnit) {
  Start({"--requirepass", "s3cret"});
  if (IsSkipped()) return;
  EXPECT_EQ(PutObject(*store_, 1, 10).code(), StatusCode::kPermissionDenied);
  RedisOptions options;
  options.password = "wrong";
  const auto wrong = Connect(options);
  const base::Status refused = PutObject(*wrong, 1, 10);
  EXPECT_EQ(refused.code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(refused.message().find("wrong "), std::string::npos) << refused.message();
  EXPECT_EQ(PutObject(*wrong, 1, 10).code(), StatusCode::kPermissionDenied) << "also while it is left alone";
  options.password = "s3cret";
  const auto right = Connect(options);
  EXPECT_TRUE(PutObject(*right, 1, 10).ok());
  options.user = "kv";
  options.password = "other";
  EXPECT_EQ(PutObject(*Connect(options), 2, 10).code(), StatusCode::kPermissionDenied);
}

TEST_F(RedisStoreTest, ConnectionsThatTheServerClosedAreReplacedUnit) {
  Start();
  if (IsSkipped()) return;
  ASSERT_TRUE(PutObject(*store_, 1, 1000).ok());
  for (int round = 0; round < 3; ++round) {
    ASSERT_GE(server_->Command({"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"})->integer, 1);
    EXPECT_TRUE(ReadRange(*store_, Key(1)).ok());
  }
  EXPECT_EQ(store_->stats().errors, 0u);
}

TEST_F(RedisStoreTest, AServerThatComesBackIsUsedAgainSafety) {
  Start();
  if (IsSkipped()) return;
  ASSERT_TRUE(PutObject(*store_, 1, 1000).ok());
  server_->Kill();
  EXPECT_EQ(ReadRange(*store_, Key(1)).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(PutObject(*store_, 2, 10).code(), StatusCode::kUnavailable);
  const StoreKey key = Key(1);
  EXPECT_EQ(store_->Lookup({&key, 1}, 0, Soon()).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(store_->EraseTenant(5, Soon()).status().code(), StatusCode::kUnavailable);
  EXPECT_GE(store_->stats().errors, 4u);
  ASSERT_TRUE(server_->Restart().ok());
  base::Status status = PutObject(*store_, 2, 10);
  for (int tries = 0; !status.ok() && tries < 100; ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    status = PutObject(*store_, 2, 10);
  }
  EXPECT_TRUE(status.ok()) << status.ToString();
  EXPECT_EQ(ReadRange(*store_, Key(1)).status().code(), StatusCode::kNotFound);
}

// A server that answers what it was told to, whatever is asked; as the first answer, that it stands alone
// when `alone`. One answer per connection, which it closes then, or `keeps` in silence.
class LyingServer {
 public:
  LyingServer(transport::Transport& transport, std::string answer, bool alone, bool keeps = false)
      : answer_(std::move(answer)), alone_(alone), keeps_(keeps) {
    auto listener = transport.Listen("tcp://127.0.0.1:0");
    EXPECT_TRUE(listener.ok());
    listener_ = *std::move(listener);
    thread_ = std::thread([this] { Serve(); });
  }
  ~LyingServer() {
    listener_->Shutdown();
    thread_.join();
  }
  RedisAddress address() const {
    const std::string endpoint = listener_->endpoint();
    return {"127.0.0.1", static_cast<uint16_t>(std::stoi(endpoint.substr(endpoint.rfind(':') + 1)))};
  }

 private:
  void Serve() {
    bool first = true;
    while (true) {
      auto stream = listener_->Accept(base::kNoDeadline);
      if (!stream.ok()) return;
      std::byte some[4096];
      if (!(*stream)->ReadSome(some, Soon()).ok()) continue;
      const bool keep = keeps_ && !(first && alone_);
      const std::string_view text =
          first && alone_ ? "-ERR This instance has cluster support disabled\r\n" : std::string_view(answer_);
      first = false;
      const std::span<const std::byte> bytes = std::as_bytes(std::span(text));
      (void)(*stream)->Write({&bytes, 1}, Soon());
      if (keep) kept_.push_back(*std::move(stream));
    }
  }

  const std::string answer_;
  const bool alone_;
  const bool keeps_;
  std::vector<std::unique_ptr<transport::Stream>> kept_;
  std::unique_ptr<transport::Listener> listener_;
  std::thread thread_;
};

void ExpectUnavailable(const std::string& answer, bool alone) {
  const auto transport = transport::CreateTcpTransport();
  LyingServer server(*transport, answer, alone);
  RedisOptions options;
  options.seeds = {server.address()};
  options.stall_timeout = std::chrono::milliseconds(200);
  const auto store = CreateRedisStore(options, *transport);
  ASSERT_TRUE(store.ok());
  const StoreKey key = Key(1);
  EXPECT_FALSE((*store)->Lookup({&key, 1}, 0, Soon()).ok()) << answer.substr(0, 40);
  const auto read = ReadRange(**store, key);
  EXPECT_EQ(read.status().code(), StatusCode::kUnavailable)
      << answer.substr(0, 40) << read.status().ToString();
  EXPECT_FALSE(PutObject(**store, 1, 10).ok());
  EXPECT_FALSE((*store)->EraseTenant(1, Soon()).ok());
}

TEST(RedisStoreSafety, ServersThatBreakTheProtocolAreUnavailable) {
  for (const std::string& answer :
       {std::string("HTTP/1.1 400 Bad Request\r\n\r\n"), std::string("$-7\r\n"), std::string("*99999999\r\n"),
        std::string(100'000, 'x'), std::string("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$1\r\nx\r\n:1\r\n"),
        std::string("$64\r\nshort"), std::string("*0\r\n"), std::string("*1\r\n*0\r\n"), std::string()}) {
    ExpectUnavailable(answer, false);
  }
  for (const std::string& answer :
       {std::string("$999999999999\r\n"), std::string(":1\r\n"), std::string("$64\r\nshort"),
        std::string("*0\r\n"), std::string("+OK\r\n"), std::string("-CLUSTERDOWN The cluster is down\r\n"),
        std::string("-MOVED 1 127.0.0.1:1\r\n"), std::string()}) {
    ExpectUnavailable(answer, true);
  }
}

// The server does not say whether it erased it. Nobody waits for that beyond the deadline of a call: it is a
// tenth of what a quarantine may take, and a busy machine has some tries.
TEST(RedisStoreSafety, DamageIsRemovedWithinTheDeadline) {
  bool in_time = false;
  for (int tries = 0; tries < 10 && !in_time; ++tries) {
    const auto transport = transport::CreateTcpTransport();
    LyingServer server(*transport, "$12\r\nnot a record\r\n", /*alone=*/true, /*keeps=*/true);
    RedisOptions options;
    options.seeds = {server.address()};
    const auto store = CreateRedisStore(options, *transport);
    ASSERT_TRUE(store.ok());
    const StoreKey key = Key(1);
    const base::TimePoint begun = base::Clock::System().Now();
    const auto found = (*store)->Lookup({&key, 1}, 0, begun + std::chrono::milliseconds(100));
    const base::Duration took = base::Clock::System().Now() - begun;
    if (!found.ok() || (*store)->stats().corrupt == 0) continue;  // the answer itself came too late
    EXPECT_TRUE(found->empty());
    in_time = took < std::chrono::milliseconds(800);
  }
  EXPECT_TRUE(in_time);
}

TEST(RedisStoreSafety, ImpossibleOptionsAreRefused) {
  const auto transport = transport::CreateTcpTransport();
  EXPECT_EQ(CreateRedisStore({}, *transport).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvplane::store

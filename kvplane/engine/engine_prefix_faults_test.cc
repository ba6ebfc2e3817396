// Stores that fail, hang or lie: the same tokens, a counter, nothing left behind.

#include <gtest/gtest.h>

#include <atomic>
#include <ctime>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "kvplane/engine/engine.h"
#include "kvplane/engine/testing/demo_model.h"
#include "kvplane/engine/testing/hooked_store.h"
#include "kvplane/engine/testing/prefix_fixture.h"

namespace kvplane::engine {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

base::TimePoint Now() { return base::Clock::System().Now(); }

using base::StatusCode;

using Damage = std::function<void(std::span<const store::ReadRequest>, HookedStore::Slices&)>;

store::Slice Flipped(const store::Slice& slice, size_t at) {
  std::vector<std::byte> bytes(slice.bytes().begin(), slice.bytes().end());
  bytes[at] ^= std::byte{1};
  return store::Slice::Own(std::move(bytes));
}

// A warm prompt of six runs over a damaged store.
struct FaultCase {
  const char* name;
  LoadError error;
  uint32_t least_computed;  // runs
  bool quarantined;
};

void ServeDamaged(const FaultCase& fault, const Damage& damage, LoadPolicy policy) {
  SCOPED_TRACE(fault.name);
  const Request request = GreedyRequest(NoisePrompt(10, 6 * kRun + 5), 12);
  static const std::vector<int32_t> expected = Expected(request);
  const auto memory = MemoryStore();
  Fill(*memory, request);
  HookedStore store(memory);
  store.after_read = damage;
  const auto engine = MakeEngine(WithStore(store, policy));
  const Ran ran = Serve(*engine, request);
  EXPECT_EQ(ran.tokens, expected);
  EXPECT_LE(ran.finish.cached_tokens, (6 - fault.least_computed) * kRun);
  EXPECT_FALSE(ran.finish.prefix->error.empty());
  ExpectNothingLeft(*engine);
  EXPECT_GE(Errors(engine->stats(), fault.error), fault.least_computed);
  EXPECT_LE(engine->stats().prefix.pushed_runs, Errors(engine->stats(), fault.error))
      << "not what was loaded";
  if (fault.quarantined) {
    EXPECT_EQ(memory->stats().corrupt, Errors(engine->stats(), fault.error));
    EXPECT_EQ(memory->stats().entries, 6u);  // computed anew and pushed again
  }
}

TEST(EnginePrefixSafety, ADamagedTileIsComputed) {
  for (const uint32_t layer_part : {0u, 3u, 7u}) {
    std::atomic<int> reads = 0;
    const Damage flip = [&](auto requests, HookedStore::Slices& slices) {
      if (ReadsPrefixes(requests)) return;
      if (reads++ != static_cast<int>(layer_part) % 3) return;
      slices[0] = Flipped(*slices[0], slices[0]->size() - 1 - layer_part);
    };
    ServeDamaged({"tile", LoadError::kCorrupt, 1, true}, flip, LoadPolicy::kAlways);
  }
}

TEST(EnginePrefixSafety, ADamagedPrefixOrShortRangeIsComputed) {
  ServeDamaged(
      {"prefix", LoadError::kCorrupt, 1, true},
      [](auto requests, HookedStore::Slices& slices) {
        if (ReadsPrefixes(requests)) slices[2] = Flipped(*slices[2], 100);
      },
      LoadPolicy::kAlways);
  ServeDamaged(
      {"short", LoadError::kCorrupt, 1, true},
      [](auto requests, HookedStore::Slices& slices) {
        // The first short layer drops the run from memory: a read that comes later finds nothing to cut.
        if (ReadsPrefixes(requests) || !slices[0].ok()) return;
        slices[0] = slices[0]->Sub(0, slices[0]->size() - 1);
      },
      LoadPolicy::kAlways);
}

TEST(EnginePrefixSafety, AnObjectUnderAnotherNameIsNotBelieved) {
  ServeDamaged(
      {"swapped", LoadError::kMismatch, 2, true},
      [](auto requests, HookedStore::Slices& slices) {
        if (ReadsPrefixes(requests)) std::swap(slices[1], slices[4]);
      },
      LoadPolicy::kAlways);
}

TEST(EnginePrefixSafety, AStoreThatGoesInMidLoadIsComputed) {
  for (const StatusCode code :
       {StatusCode::kNotFound, StatusCode::kUnavailable, StatusCode::kDeadlineExceeded}) {
    std::atomic<int> reads = 0;
    const LoadError error = code == StatusCode::kNotFound      ? LoadError::kMissing
                            : code == StatusCode::kUnavailable ? LoadError::kUnavailable
                                                               : LoadError::kTimeout;
    ServeDamaged(
        {"gone", error, 1, false},
        [&](auto requests, HookedStore::Slices& slices) {
          if (ReadsPrefixes(requests) || reads++ < 1) return;
          for (auto& slice : slices) slice = base::Status(code, "gone");
        },
        LoadPolicy::kAlways);
  }
}

// A better object comes under the key between the read of the prefix and that of the layers: what is read of
// both does not verify, and yet neither is damaged.
TEST(EnginePrefixSafety, AnObjectThatIsReplacedDuringItsLoadIsNotQuarantined) {
  const Request request = GreedyRequest(NoisePrompt(17, 2 * kRun + 5), 4);
  const auto better = MemoryStore();
  Fill(*better, request);
  const auto memory = MemoryStore();
  {
    EngineOptions lossy = WithStore(*memory);
    lossy.prefix.strategy = Parsed("int8(token_head) | pack");
    lossy.prefix.quality = 900;
    const auto engine = MakeEngine(lossy);
    Serve(*engine, request);
    ExpectNothingLeft(*engine);
    ASSERT_EQ(memory->stats().entries, 2u);
  }
  HookedStore store(memory);
  std::atomic<bool> replaced = false;
  store.before_read = [&](std::span<const store::ReadRequest> requests, base::TimePoint deadline) {
    if (ReadsPrefixes(requests) || replaced.exchange(true)) return base::Status::Ok();
    for (const store::ReadRequest& read : requests) {
      const auto info = better->Lookup(std::span(&read.key, 1), 0, deadline);
      const store::ReadRequest whole{.key = read.key, .offset = 0, .bytes = 0};
      const auto object = better->Read(std::span(&whole, 1), deadline);
      EXPECT_TRUE(memory
                      ->Put(read.key,
                            {.prefix_bytes = static_cast<uint32_t>(info->at(0).prefix_bytes),
                             .quality = info->at(0).quality,
                             .ttl = {}},
                            *object[0], {}, deadline)
                      .ok());
    }
    return base::Status::Ok();
  };
  EngineOptions options = WithStore(store);
  options.prefix.min_quality = 900;
  const auto engine = MakeEngine(options);
  Request accepting = request;
  accepting.accept_lossy = true;
  EXPECT_EQ(Serve(*engine, accepting).finish.reason, FinishReason::kLength);
  ExpectNothingLeft(*engine);
  EXPECT_TRUE(replaced);
  EXPECT_EQ(memory->stats().corrupt, 0u);
  EXPECT_EQ(memory->stats().entries, 2u);
  EXPECT_GE(Errors(engine->stats(), LoadError::kMissing), 1u);
  EXPECT_EQ(Errors(engine->stats(), LoadError::kCorrupt), 0u);
}

TEST(EnginePrefixSafety, AFailedLookupIsAMiss) {
  const Request request = GreedyRequest(NoisePrompt(11, 2 * kRun), 4);
  const auto memory = MemoryStore();
  Fill(*memory, request);
  HookedStore store(memory);
  store.before_lookup = [](base::TimePoint) { return base::Unavailable("nobody there"); };
  store.before_put = [] { return base::Unavailable("nobody there"); };
  const auto engine = MakeEngine(WithStore(store));
  for (int i = 0; i < 5; ++i) {
    const Ran ran = Serve(*engine, request);
    EXPECT_EQ(ran.tokens, Expected(request));
    EXPECT_EQ(ran.finish.cached_tokens, 0u);
    EXPECT_NE(ran.finish.prefix->error.find("unavailable"), std::string::npos) << ran.finish.prefix->error;
  }
  ExpectNothingLeft(*engine);
  EXPECT_EQ(engine->stats().prefix.lookup_errors, 5u);
  const PrefixStats stats = engine->stats().prefix;
  EXPECT_LE(stats.lookups, 3u);  // then the store is left alone
  EXPECT_EQ(stats.push_drops[static_cast<size_t>(PushDrop::kSuspended)] +
                stats.push_drops[static_cast<size_t>(PushDrop::kStore)],
            5u * 2);
}

// The store keeps its deadlines, or not: the request goes on without it either way.
TEST(EnginePrefixSafety, AHangingLookupIsGivenUp) {
  const Request request = GreedyRequest(NoisePrompt(12, 2 * kRun), 4);
  for (const bool keeps_deadline : {true, false}) {
    const auto memory = MemoryStore();
    HookedStore store(memory);
    Gate gate;
    store.before_lookup = [&](base::TimePoint deadline) {
      return gate.Wait(keeps_deadline ? deadline : base::kNoDeadline);
    };
    EngineOptions options = WithStore(store);
    options.prefix.timeout = milliseconds(20);
    const auto engine = MakeEngine(options);
    const Ran ran = Serve(*engine, request);
    EXPECT_EQ(ran.tokens, Expected(request));
    EXPECT_NE(ran.finish.prefix->error.find("deadline"), std::string::npos) << ran.finish.prefix->error;
    gate.open = true;
    ExpectNothingLeft(*engine);
  }
}

// One call of the store hangs; the lookups behind it are never made. They are misses, but none of the
// store's: one failure does not open the breaker, and each lookup is counted once.
TEST(EnginePrefixSafety, LookupsThatWereNotAskedAreNoFailures) {
  const Request request = GreedyRequest(NoisePrompt(19, 2 * kRun + 1), 4);
  const auto memory = MemoryStore();
  Fill(*memory, request);
  HookedStore store(memory);
  Gate gate;
  store.before_lookup = [&](base::TimePoint) { return gate.Wait(base::kNoDeadline); };
  EngineOptions options = WithStore(store);
  options.prefix.timeout = milliseconds(500);  // the last lookup must succeed on a busy machine
  const auto engine = MakeEngine(options);
  std::vector<std::shared_ptr<Recorder>> recorders;
  for (int i = 0; i < 5; ++i) recorders.push_back(Submit(*engine, request));
  for (const auto& recorder : recorders) {
    ASSERT_TRUE(recorder->WaitForFinish());
    EXPECT_EQ(recorder->finish().cached_tokens, 0u);
    EXPECT_NE(recorder->finish().prefix->error.find("deadline"), std::string::npos);
  }
  gate.open = true;
  EXPECT_EQ(Serve(*engine, request).finish.cached_tokens, 2 * kRun);  // the store is not left alone
  ExpectNothingLeft(*engine);
  EXPECT_EQ(engine->stats().prefix.lookup_errors, 5u);
  EXPECT_EQ(engine->stats().prefix.lookups, 2u);
}

// Memory is taken for a prefix before a byte of it is seen: not for more than a prefix can have.
TEST(EnginePrefixSafety, AnObjectThatIsTooLargeIsNotRead) {
  const Request request = GreedyRequest(NoisePrompt(20, 3 * kRun + 1), 4);
  const auto expected = Expected(request);
  for (const bool large_prefix : {true, false}) {
    const auto memory = MemoryStore();
    Fill(*memory, request);
    HookedStore store(memory);
    store.after_lookup = [&](std::vector<store::EntryInfo>& found) {
      if (found.size() != 3) return;  // the one of the request
      found[1].bytes = store::kMaxStoredBytes;
      found[1].prefix_bytes = large_prefix ? 1u << 29 : 1u << 9;
    };
    std::atomic<uint64_t> largest = 0;
    store.before_read = [&](std::span<const store::ReadRequest> requests, base::TimePoint) {
      for (const store::ReadRequest& read : requests) largest = std::max<uint64_t>(largest, read.bytes);
      if (ReadsPrefixes(requests)) {
        EXPECT_EQ(requests.size(), 2u);  // of run 0 and run 2
      }
      return base::Status::Ok();
    };
    const auto engine = MakeEngine(WithStore(store));
    const Ran ran = Serve(*engine, request);
    EXPECT_EQ(ran.tokens, expected);
    EXPECT_EQ(ran.finish.cached_tokens, 2 * kRun);
    EXPECT_NE(ran.finish.prefix->error.find("too large"), std::string::npos) << ran.finish.prefix->error;
    EXPECT_LT(largest, 1u << 20);
    ExpectNothingLeft(*engine);
    EXPECT_EQ(engine->stats().prefix.loads, 1u);
  }
}

TEST(EnginePrefixSafety, AHangingLoadIsGivenUp) {
  const Request request = GreedyRequest(NoisePrompt(13, 4 * kRun + 1), 4);
  const auto expected = Expected(request);
  const auto memory = MemoryStore();
  Fill(*memory, request);
  for (const bool keeps_deadline : {true, false}) {
    for (const bool opens : {true, false}) {
      HookedStore store(memory);
      Gate gate;
      store.before_read = [&](auto requests, base::TimePoint deadline) {
        if (opens && ReadsPrefixes(requests)) return base::Status::Ok();
        return gate.Wait(keeps_deadline ? deadline : base::kNoDeadline);
      };
      EngineOptions options = WithStore(store);
      options.prefix.timeout = milliseconds(500);  // also of the lookup, which must succeed on a busy machine
      const auto engine = MakeEngine(options);
      const Ran ran = Serve(*engine, request);  // its pages are free although a read still hangs
      EXPECT_EQ(ran.tokens, expected);
      EXPECT_EQ(ran.finish.cached_tokens, 0u);
      EXPECT_EQ(Errors(engine->stats(), LoadError::kTimeout), 4u);
      ExpectNothingLeft(*engine);
      gate.open = true;
    }
  }
}

TEST(EnginePrefixSafety, OthersGoOnWhileALoadHangs) {
  const Request slow = GreedyRequest(NoisePrompt(14, 4 * kRun + 1), 4);
  const auto memory = MemoryStore();
  Fill(*memory, slow);
  HookedStore store(memory);
  Gate gate;
  store.before_read = [&](auto, base::TimePoint deadline) { return gate.Wait(deadline); };
  const auto engine = MakeEngine(WithStore(store));  // waits for the load whatever it takes
  const auto waiting = Submit(*engine, slow);
  ASSERT_TRUE(WaitUntil([&] { return engine->stats().loading == 1; }));
  for (uint64_t i = 0; i < 5; ++i) {
    const Request quick = GreedyRequest(NoisePrompt(50 + i, 40 + 30 * i), 6);
    EXPECT_EQ(Serve(*engine, quick).finish.reason, FinishReason::kLength);
  }
  EXPECT_TRUE(waiting->tokens().empty());
  gate.open = true;
  ASSERT_TRUE(waiting->WaitForFinish());
  EXPECT_EQ(waiting->tokens(), Expected(slow));
  EXPECT_EQ(waiting->finish().cached_tokens, 4 * kRun);
  ExpectNothingLeft(*engine);
}

TEST(EnginePrefixSafety, CancellationAtEveryStageLeavesNothing) {
  const Request request = GreedyRequest(NoisePrompt(15, 4 * kRun + 1), 200);
  const auto memory = MemoryStore();
  Fill(*memory, request);
  for (int stage = 0; stage < 4; ++stage) {
    SCOPED_TRACE(stage);
    HookedStore store(memory);
    Gate gate;
    std::atomic<int> waiting = 0;
    const auto hold = [&](int at, base::TimePoint deadline) {
      if (stage != at) return base::Status::Ok();
      ++waiting;
      return gate.Wait(deadline);
    };
    store.before_lookup = [&](base::TimePoint deadline) { return hold(0, deadline); };
    store.before_read = [&](auto requests, base::TimePoint deadline) {
      return hold(ReadsPrefixes(requests) ? 1 : 2, deadline);
    };
    const auto engine = MakeEngine(WithStore(store));
    base::RequestId id;
    const auto recorder = Submit(*engine, request, &id);
    if (stage < 3) {
      ASSERT_TRUE(WaitUntil([&] { return waiting > 0; }));
    } else {
      ASSERT_TRUE(recorder->WaitForTokens(20));
    }
    engine->Cancel(id);
    ASSERT_TRUE(recorder->WaitForFinish());
    EXPECT_EQ(recorder->finish().reason, FinishReason::kCancelled);
    ASSERT_TRUE(WaitUntil([&] { return engine->stats().blocks_used == 0; }));  // before the store answers
    gate.open = true;
    ExpectNothingLeft(*engine);
  }
}

// With nobody left the engine sleeps, also when the last one went while it waited for a load.
TEST(EnginePrefixSafety, AnIdleEngineTakesNoProcessorTime) {
  const Request request = GreedyRequest(NoisePrompt(18, 4 * kRun + 1), 20);
  const auto memory = MemoryStore();
  Fill(*memory, request);
  HookedStore store(memory);
  Gate gate;
  store.before_read = [&](auto, base::TimePoint deadline) { return gate.Wait(deadline); };
  const auto engine = MakeEngine(WithStore(store));
  base::RequestId id;
  const auto recorder = Submit(*engine, request, &id);
  ASSERT_TRUE(WaitUntil([&] { return engine->stats().loading == 1; }));
  engine->Cancel(id);
  ASSERT_TRUE(recorder->WaitForFinish());
  gate.open = true;
  ASSERT_TRUE(WaitUntil([&] { return engine->stats().blocks_used == 0; }));
  const auto processor_s = [] { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; };
  const double before = processor_s();
  base::Clock::System().SleepUntil(Now() + milliseconds(600));
  EXPECT_LT(processor_s() - before, 0.3);  // of all threads; one that spins has most of a core
  ExpectNothingLeft(*engine);
}

TEST(EnginePrefixSafety, DestructionInMidLoadEndsEverything) {
  const Request request = GreedyRequest(NoisePrompt(16, 4 * kRun + 1), 200);
  const auto memory = MemoryStore();
  Fill(*memory, request);
  HookedStore store(memory);
  store.before_read = [](auto requests, base::TimePoint) {
    if (!ReadsPrefixes(requests)) base::Clock::System().SleepUntil(Now() + milliseconds(5));
    return base::Status::Ok();
  };
  std::vector<std::shared_ptr<Recorder>> recorders;
  {
    const auto engine = MakeEngine(WithStore(store));
    for (int i = 0; i < 6; ++i) recorders.push_back(Submit(*engine, request));
  }
  for (const auto& recorder : recorders) {
    ASSERT_TRUE(recorder->WaitForFinish());
    EXPECT_TRUE(recorder->in_order());
  }
}

// ---- Pushing

TEST(EnginePrefixSafety, ASlowStoreDelaysNothingAndDropsAreCounted) {
  const auto memory = MemoryStore();
  HookedStore store(memory);
  Gate gate;
  store.before_put = [&] { return gate.Wait(base::kNoDeadline); };
  EngineOptions options = WithStore(store);
  options.prefix.push_bytes = 1;  // one run at a time
  const auto engine = MakeEngine(options);
  for (uint64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(Serve(*engine, GreedyRequest(NoisePrompt(60 + i, 2 * kRun), 2)).finish.reason,
              FinishReason::kLength);
  }
  ASSERT_TRUE(WaitUntil([&] { return engine->stats().blocks_used == 0; }));
  ASSERT_TRUE(WaitUntil(
      [&] { return engine->stats().prefix.push_drops[static_cast<size_t>(PushDrop::kBacklog)] == 7; }));
  gate.open = true;
  ExpectNothingLeft(*engine);
  EXPECT_EQ(engine->stats().prefix.pushed_runs, 1u);
  EXPECT_EQ(memory->stats().entries, 1u);
}

TEST(EnginePrefixSafety, AFullPushQueueDrops) {
  const auto memory = MemoryStore();
  EngineOptions options = WithStore(*memory);
  options.prefix.push_runs = 2;
  const auto engine = MakeEngine(options);
  EXPECT_EQ(Serve(*engine, GreedyRequest(NoisePrompt(70, 4 * kRun), 2)).finish.reason, FinishReason::kLength);
  ExpectNothingLeft(*engine);
  EXPECT_EQ(engine->stats().prefix.push_drops[static_cast<size_t>(PushDrop::kQueue)], 4u);
  EXPECT_EQ(memory->stats().entries, 0u);
}

// A node that looks nothing up has nothing but its pushes to find out that the store is back.
TEST(EnginePrefixSafety, PushesGoOnAfterAnOutage) {
  const auto memory = MemoryStore();
  HookedStore store(memory);
  std::atomic<bool> out = true;
  store.before_put = [&] { return out ? base::Unavailable("nobody there") : base::Status::Ok(); };
  const auto engine = MakeEngine(WithStore(store));
  uint64_t seed = 80;
  const auto push = [&] {  // too short to be looked up, long enough to be stored with its answer
    EXPECT_EQ(Serve(*engine, GreedyRequest(NoisePrompt(seed++, kRun - 8), 16)).finish.reason,
              FinishReason::kLength);
  };
  const auto suspended = [&] {
    return engine->stats().prefix.push_drops[static_cast<size_t>(PushDrop::kSuspended)];
  };
  ASSERT_TRUE(WaitUntil([&] {
    push();
    return suspended() > 0;
  }));
  EXPECT_EQ(engine->stats().prefix.lookups, 0u);
  out = false;
  EXPECT_TRUE(WaitUntil([&] {
    push();
    return engine->stats().prefix.pushed_runs > 0;
  }));
  ExpectNothingLeft(*engine);
}

TEST(EnginePrefixSafety, ARefusingStoreIsCounted) {
  const auto memory = MemoryStore();
  HookedStore store(memory);
  store.before_put = [] { return base::ResourceExhausted("full"); };
  const auto engine = MakeEngine(WithStore(store));
  EXPECT_EQ(Serve(*engine, GreedyRequest(NoisePrompt(71, 3 * kRun), 2)).finish.reason, FinishReason::kLength);
  ExpectNothingLeft(*engine);
  EXPECT_EQ(engine->stats().prefix.push_drops[static_cast<size_t>(PushDrop::kStore)], 3u);
}

}  // namespace
}  // namespace kvplane::engine

// Prefixes from a store: one engine with the real demo model beside one without a store.

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/engine/engine.h"
#include "kvplane/engine/run_object.h"
#include "kvplane/engine/testing/demo_model.h"
#include "kvplane/engine/testing/hooked_store.h"
#include "kvplane/engine/testing/recorder.h"
#include "kvplane/store/dram_store.h"
#include "kvplane/store/key_chain.h"
#include "kvplane/transport/inproc_transport.h"

namespace kvplane::engine {
namespace {

using base::StatusCode;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr uint32_t kRun = 128;

base::TimePoint Now() { return base::Clock::System().Now(); }

std::shared_ptr<store::Store> Memory() { return *store::DramStore::Create({.capacity_bytes = 256 << 20}); }

codec::Strategy Parsed(std::string_view text) { return *codec::Strategy::Parse(text); }

EngineOptions With(store::Store& store, LoadPolicy load = LoadPolicy::kAlways) {
  EngineOptions options;
  options.prefix.store = &store;
  options.prefix.run_tokens = kRun;
  options.prefix.strategy = Parsed("lossless-max");
  options.prefix.load = load;
  options.prefix.timeout = seconds(60);  // sanitizers on a busy machine; tests of deadlines set their own
  return options;
}

std::unique_ptr<Engine> MakeEngine(const EngineOptions& options = {}) {
  auto engine = Engine::Create(DemoModel(), options, nullptr, nullptr);
  EXPECT_TRUE(engine.ok()) << engine.status().ToString();
  return *std::move(engine);
}

std::shared_ptr<Recorder> Submit(Engine& engine, Request request, base::RequestId* id = nullptr) {
  auto recorder = std::make_shared<Recorder>();
  const auto submitted = engine.Submit(std::move(request), recorder);
  EXPECT_TRUE(submitted.ok()) << submitted.status().ToString();
  if (id != nullptr && submitted.ok()) *id = *submitted;
  return recorder;
}

struct Ran {
  std::vector<int32_t> tokens;
  FinishEvent finish;
};

Ran Serve(Engine& engine, Request request) {
  const auto recorder = Submit(engine, std::move(request));
  EXPECT_TRUE(recorder->WaitForFinish());
  EXPECT_TRUE(recorder->in_order());
  return {recorder->tokens(), recorder->finish()};
}

// Tokens of an engine without a store, on the other copy of the model: that of the engine under test is its
// alone.
std::vector<int32_t> Expected(const Request& request) {
  const auto engine = *Engine::Create(DemoModel(1), {}, nullptr, nullptr);
  return Serve(*engine, request).tokens;
}

bool WaitUntil(const std::function<bool()>& condition) {
  const base::TimePoint deadline = Now() + Recorder::kPatience;
  while (!condition()) {
    if (Now() >= deadline) return false;
    base::Clock::System().SleepUntil(Now() + milliseconds(1));
  }
  return true;
}

// Fills the store with the prompt's runs and ends the engine that did it.
void Fill(store::Store& store, const Request& request) {
  const auto engine = MakeEngine(With(store));
  EXPECT_EQ(Serve(*engine, request).finish.reason, FinishReason::kLength);
  engine->Drain(Now() + seconds(60));
}

void ExpectNothingLeft(Engine& engine) {
  engine.Drain(Now() + seconds(60));
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.blocks_used, 0u);
  EXPECT_EQ(stats.running, 0u);
  EXPECT_EQ(stats.queued, 0u);
  EXPECT_EQ(stats.loading, 0u);
  EXPECT_EQ(stats.requests_submitted,
            stats.requests_finished + stats.requests_failed + stats.requests_cancelled);
}

uint64_t Errors(const EngineStats& stats, LoadError error) {
  return stats.prefix.run_errors[static_cast<size_t>(error)];
}

// ---- The same tokens

TEST(EnginePrefixUnit, WarmEqualsColdAndSaysWhatWasCached) {
  const auto store = Memory();
  const Request request = GreedyRequest(NoisePrompt(1, 5 * kRun + 17), 24);
  const auto expected = Expected(request);
  const auto engine = MakeEngine(With(*store));
  const Ran cold = Serve(*engine, request);
  EXPECT_EQ(cold.tokens, expected);
  EXPECT_EQ(cold.finish.cached_tokens, 0u);
  ASSERT_TRUE(cold.finish.prefix.has_value());
  EXPECT_EQ(cold.finish.prefix->found_tokens, 0u);
  ASSERT_TRUE(WaitUntil([&] { return store->stats().entries == 5; }));

  const Ran warm = Serve(*engine, request);
  EXPECT_EQ(warm.tokens, expected);
  EXPECT_EQ(warm.finish.cached_tokens, 5 * kRun);
  EXPECT_EQ(warm.finish.prefix->found_tokens, 5 * kRun);
  EXPECT_EQ(warm.finish.prefix->tier, "dram");
  EXPECT_TRUE(warm.finish.prefix->error.empty()) << warm.finish.prefix->error;
  ExpectNothingLeft(*engine);
  const PrefixStats stats = engine->stats().prefix;
  EXPECT_EQ(stats.lookups, 2u);
  EXPECT_EQ(stats.lookup_tokens, 2u * 5 * kRun);
  EXPECT_EQ(stats.hit_tokens, 5u * kRun);
  EXPECT_EQ(stats.loads, 1u);
  EXPECT_EQ(stats.loaded_tokens, 5u * kRun);
  EXPECT_GT(stats.loaded_bytes, 0u);
  EXPECT_EQ(stats.pushed_runs, 5u);
  EXPECT_EQ(stats.pushed_bytes, store->stats().put_bytes);
  EXPECT_LT(stats.pushed_bytes, 5 * kRun * DemoModel().kv_geometry().bytes_per_token());
}

// Lengths around multiples of the run: the last prompt token is always computed.
TEST(EnginePrefixProperty, EveryLengthGivesTheSameTokens) {
  const std::vector<int32_t> prompt = NoisePrompt(2, 4 * kRun + 1);
  const auto store = Memory();
  Fill(*store, GreedyRequest(prompt, 1));
  const auto engine = MakeEngine(With(*store));
  for (const uint32_t length :
       {1u, kRun - 1, kRun, kRun + 1, 2 * kRun, 3 * kRun - 1, 4 * kRun, 4 * kRun + 1}) {
    SCOPED_TRACE(length);
    const Request request = GreedyRequest(std::vector<int32_t>(prompt.begin(), prompt.begin() + length), 12);
    const Ran ran = Serve(*engine, request);
    EXPECT_EQ(ran.tokens, Expected(request));
    EXPECT_EQ(ran.finish.cached_tokens, (length - 1) / kRun * kRun);
  }
  ExpectNothingLeft(*engine);
}

TEST(EnginePrefixProperty, ChunksBlocksAndRunsDoNotChangeTokens) {
  const std::vector<int32_t> prompt = NoisePrompt(3, 700);
  const Request request = GreedyRequest(prompt, 10);
  const auto expected = Expected(request);
  for (const uint32_t run_tokens : {64u, 192u, 256u}) {
    for (const uint32_t block_tokens : {16u, 64u, 100u}) {
      SCOPED_TRACE(testing::Message() << run_tokens << " " << block_tokens);
      const auto store = Memory();
      EngineOptions options = With(*store);
      options.prefix.run_tokens = run_tokens;
      options.block_tokens = block_tokens;
      options.step_tokens = 130;
      options.max_running = 2;
      const auto engine = MakeEngine(options);
      EXPECT_EQ(Serve(*engine, request).tokens, expected);
      ASSERT_TRUE(WaitUntil([&] { return store->stats().entries == 709 / run_tokens; }));
      const Ran warm = Serve(*engine, request);
      EXPECT_EQ(warm.tokens, expected);
      EXPECT_EQ(warm.finish.cached_tokens, 699 / run_tokens * run_tokens);
      ExpectNothingLeft(*engine);
    }
  }
}

TEST(EnginePrefixUnit, GeneratedTokensAreCachedForTheNextTurn) {
  const auto store = Memory();
  const auto engine = MakeEngine(With(*store));
  const Request first = GreedyRequest(NoisePrompt(4, kRun + 40), 2 * kRun);
  const Ran ran = Serve(*engine, first);
  Request second = first;
  second.prompt.insert(second.prompt.end(), ran.tokens.begin(), ran.tokens.end());
  second.prompt.push_back(77);
  second.max_tokens = 8;
  // 168 + 256 tokens, of which the last generated was not fed back: three whole runs.
  ASSERT_TRUE(WaitUntil([&] { return store->stats().entries == 3; }));
  const Ran next = Serve(*engine, second);
  EXPECT_EQ(next.finish.cached_tokens, 3 * kRun);
  EXPECT_EQ(next.tokens, Expected(second));
  ExpectNothingLeft(*engine);
}

TEST(EnginePrefixProperty, CompanyChangesNothing) {
  base::Rng rng(5);
  const std::vector<int32_t> shared = NoisePrompt(6, 6 * kRun);
  std::vector<Request> requests;
  std::vector<std::vector<int32_t>> expected;
  for (uint64_t i = 0; i < 12; ++i) {
    std::vector<int32_t> prompt(shared.begin(),
                                shared.begin() + static_cast<std::ptrdiff_t>(rng.Below(shared.size())));
    for (const int32_t id : NoisePrompt(100 + i, 1 + rng.Below(150))) prompt.push_back(id);
    requests.push_back(GreedyRequest(std::move(prompt), static_cast<uint32_t>(1 + rng.Below(20))));
    expected.push_back(Expected(requests.back()));
  }
  for (const LoadPolicy policy : {LoadPolicy::kAlways, LoadPolicy::kAdaptive}) {
    const auto store = Memory();
    EngineOptions options = With(*store, policy);
    options.block_tokens = 16;
    options.step_tokens = 200;
    options.max_running = 6;
    const auto engine = MakeEngine(options);
    for (int round = 0; round < 2; ++round) {
      std::vector<std::shared_ptr<Recorder>> recorders;
      for (const Request& request : requests) recorders.push_back(Submit(*engine, request));
      for (size_t i = 0; i < requests.size(); ++i) {
        ASSERT_TRUE(recorders[i]->WaitForFinish());
        EXPECT_EQ(recorders[i]->tokens(), expected[i]) << "request " << i << " of round " << round;
      }
    }
    EXPECT_GT(engine->stats().prefix.hit_tokens, 0u);
    ExpectNothingLeft(*engine);
  }
}

// ---- Meeting in the middle

// Reads after the prefixes wait until the engine has taken `runs` runs from the front (or the test ends it).
struct Gate {
  std::atomic<bool> open = false;

  base::Status Wait(base::TimePoint deadline) {
    while (!open) {
      if (Now() >= deadline) return base::DeadlineExceeded("the gate is closed");
      base::Clock::System().SleepUntil(Now() + milliseconds(1));
    }
    return base::Status::Ok();
  }
};

bool ReadsPrefixes(std::span<const store::ReadRequest> requests) { return requests[0].offset == 0; }

TEST(EnginePrefixUnit, AHaltingLoadIsComputedFromTheFront) {
  const Request request = GreedyRequest(NoisePrompt(7, 8 * kRun + 3), 16);
  const auto expected = Expected(request);
  const auto memory = Memory();
  Fill(*memory, request);
  HookedStore store(memory);
  Gate gate;
  store.before_read = [&](auto requests, base::TimePoint deadline) {
    return ReadsPrefixes(requests) ? base::Status::Ok() : gate.Wait(deadline);
  };
  const auto engine = MakeEngine(With(store, LoadPolicy::kAdaptive));
  // A prefill rate, so that the engine knows what it is giving up by waiting.
  EXPECT_EQ(Serve(*engine, GreedyRequest(NoisePrompt(8, 100), 1)).finish.reason, FinishReason::kLength);
  const auto recorder = Submit(*engine, request);
  ASSERT_TRUE(WaitUntil([&] { return engine->stats().prefix.taken_runs >= 2; }));
  gate.open = true;
  ASSERT_TRUE(recorder->WaitForFinish());
  EXPECT_EQ(recorder->tokens(), expected);
  const FinishEvent finish = recorder->finish();
  const uint64_t taken = engine->stats().prefix.taken_runs;
  EXPECT_EQ(finish.cached_tokens + taken * kRun, 8 * kRun);  // every run once: loaded, or computed
  ExpectNothingLeft(*engine);
}

// Whatever order loader and engine come in, each run is loaded or computed, and the tokens are the same.
TEST(EnginePrefixProperty, MeetingAnywhereGivesTheSameTokens) {
  const Request request = GreedyRequest(NoisePrompt(9, 10 * kRun + 1), 6);
  const auto expected = Expected(request);
  const auto memory = Memory();
  Fill(*memory, request);
  base::Rng rng(17);
  for (int round = 0; round < 12; ++round) {
    HookedStore store(memory);
    base::Mutex mutex;
    store.before_read = [&](auto, base::TimePoint) {
      base::Duration pause{};
      {
        base::MutexLock lock(mutex);
        pause = std::chrono::microseconds(rng.Below(round % 3 == 0 ? 500 : 20'000));
      }
      base::Clock::System().SleepUntil(Now() + pause);
      return base::Status::Ok();
    };
    EngineOptions options = With(store, LoadPolicy::kAdaptive);
    options.step_tokens = round % 2 == 0 ? 192 : 512;
    const auto engine = MakeEngine(options);
    Serve(*engine, GreedyRequest(NoisePrompt(8, 100), 1));
    for (int repeat = 0; repeat < 2; ++repeat) {  // the second with measured speeds
      const Ran ran = Serve(*engine, request);
      EXPECT_EQ(ran.tokens, expected) << round;
      EXPECT_LE(ran.finish.cached_tokens, 10 * kRun);
    }
    ExpectNothingLeft(*engine);
  }
}

// ---- Faults: the same tokens, a counter, nothing left behind

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
  const auto memory = Memory();
  Fill(*memory, request);
  HookedStore store(memory);
  store.after_read = damage;
  const auto engine = MakeEngine(With(store, policy));
  const Ran ran = Serve(*engine, request);
  EXPECT_EQ(ran.tokens, expected);
  EXPECT_LE(ran.finish.cached_tokens, (6 - fault.least_computed) * kRun);
  EXPECT_FALSE(ran.finish.prefix->error.empty());
  ExpectNothingLeft(*engine);
  EXPECT_GE(Errors(engine->stats(), fault.error), fault.least_computed);
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

TEST(EnginePrefixSafety, AFailedLookupIsAMiss) {
  const Request request = GreedyRequest(NoisePrompt(11, 2 * kRun), 4);
  const auto memory = Memory();
  Fill(*memory, request);
  HookedStore store(memory);
  store.before_lookup = [](base::TimePoint) { return base::Unavailable("nobody there"); };
  store.before_put = [] { return base::Unavailable("nobody there"); };
  const auto engine = MakeEngine(With(store));
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
    const auto memory = Memory();
    HookedStore store(memory);
    Gate gate;
    store.before_lookup = [&](base::TimePoint deadline) {
      return gate.Wait(keeps_deadline ? deadline : base::kNoDeadline);
    };
    EngineOptions options = With(store);
    options.prefix.timeout = milliseconds(20);
    const auto engine = MakeEngine(options);
    const Ran ran = Serve(*engine, request);
    EXPECT_EQ(ran.tokens, Expected(request));
    EXPECT_NE(ran.finish.prefix->error.find("deadline"), std::string::npos) << ran.finish.prefix->error;
    gate.open = true;
    ExpectNothingLeft(*engine);
  }
}

TEST(EnginePrefixSafety, AHangingLoadIsGivenUp) {
  const Request request = GreedyRequest(NoisePrompt(13, 4 * kRun + 1), 4);
  const auto expected = Expected(request);
  const auto memory = Memory();
  Fill(*memory, request);
  for (const bool keeps_deadline : {true, false}) {
    for (const bool opens : {true, false}) {
      HookedStore store(memory);
      Gate gate;
      store.before_read = [&](auto requests, base::TimePoint deadline) {
        if (opens && ReadsPrefixes(requests)) return base::Status::Ok();
        return gate.Wait(keeps_deadline ? deadline : base::kNoDeadline);
      };
      EngineOptions options = With(store);
      options.prefix.timeout = milliseconds(20);
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
  const auto memory = Memory();
  Fill(*memory, slow);
  HookedStore store(memory);
  Gate gate;
  store.before_read = [&](auto, base::TimePoint deadline) { return gate.Wait(deadline); };
  const auto engine = MakeEngine(With(store));  // waits for the load whatever it takes
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
  const auto memory = Memory();
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
    const auto engine = MakeEngine(With(store));
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

TEST(EnginePrefixSafety, DestructionInMidLoadEndsEverything) {
  const Request request = GreedyRequest(NoisePrompt(16, 4 * kRun + 1), 200);
  const auto memory = Memory();
  Fill(*memory, request);
  HookedStore store(memory);
  store.before_read = [](auto requests, base::TimePoint) {
    if (!ReadsPrefixes(requests)) base::Clock::System().SleepUntil(Now() + milliseconds(5));
    return base::Status::Ok();
  };
  std::vector<std::shared_ptr<Recorder>> recorders;
  {
    const auto engine = MakeEngine(With(store));
    for (int i = 0; i < 6; ++i) recorders.push_back(Submit(*engine, request));
  }
  for (const auto& recorder : recorders) {
    ASSERT_TRUE(recorder->WaitForFinish());
    EXPECT_TRUE(recorder->in_order());
  }
}

// ---- Pushing

TEST(EnginePrefixSafety, ASlowStoreDelaysNothingAndDropsAreCounted) {
  const auto memory = Memory();
  HookedStore store(memory);
  Gate gate;
  store.before_put = [&] { return gate.Wait(base::kNoDeadline); };
  EngineOptions options = With(store);
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
  const auto memory = Memory();
  EngineOptions options = With(*memory);
  options.prefix.push_runs = 2;
  const auto engine = MakeEngine(options);
  EXPECT_EQ(Serve(*engine, GreedyRequest(NoisePrompt(70, 4 * kRun), 2)).finish.reason, FinishReason::kLength);
  ExpectNothingLeft(*engine);
  EXPECT_EQ(engine->stats().prefix.push_drops[static_cast<size_t>(PushDrop::kQueue)], 4u);
  EXPECT_EQ(memory->stats().entries, 0u);
}

TEST(EnginePrefixSafety, ARefusingStoreIsCounted) {
  const auto memory = Memory();
  HookedStore store(memory);
  store.before_put = [] { return base::ResourceExhausted("full"); };
  const auto engine = MakeEngine(With(store));
  EXPECT_EQ(Serve(*engine, GreedyRequest(NoisePrompt(71, 3 * kRun), 2)).finish.reason, FinishReason::kLength);
  ExpectNothingLeft(*engine);
  EXPECT_EQ(engine->stats().prefix.push_drops[static_cast<size_t>(PushDrop::kStore)], 3u);
}

// ---- Lossy KV

TEST(EnginePrefixUnit, StrictRequestsNeverGetLossyKv) {
  const auto store = Memory();
  EngineOptions options = With(*store);
  options.prefix.strategy = Parsed("int8");
  options.prefix.quality = 900;
  const Request request = GreedyRequest(NoisePrompt(20, 3 * kRun + 1), 8);
  auto engine = MakeEngine(options);
  EXPECT_EQ(Serve(*engine, request).tokens, Expected(request));
  ASSERT_TRUE(WaitUntil([&] { return store->stats().entries == 3; }));
  EXPECT_EQ(Serve(*engine, request).finish.cached_tokens, 3 * kRun);
  Request strict = request;
  strict.accept_lossy = false;
  const Ran ran = Serve(*engine, strict);
  EXPECT_EQ(ran.finish.cached_tokens, 0u);
  EXPECT_EQ(ran.tokens, Expected(request));
  ExpectNothingLeft(*engine);

  engine.reset();
  options.prefix.min_quality = 901;
  const auto demanding = MakeEngine(options);
  EXPECT_EQ(Serve(*demanding, request).finish.cached_tokens, 0u);
}

TEST(EnginePrefixUnit, WhatStandsOnLossyKvIsNotSoldAsLossless) {
  const auto store = Memory();
  const Request request = GreedyRequest(NoisePrompt(21, 2 * kRun + 1), 1);
  {
    EngineOptions options = With(*store);
    options.prefix.strategy = Parsed("int8");
    options.prefix.quality = 900;
    const auto engine = MakeEngine(options);
    Serve(*engine, request);
    engine->Drain(Now() + seconds(60));
  }
  Request longer = request;
  for (const int32_t id : NoisePrompt(22, 2 * kRun)) longer.prompt.push_back(id);
  const auto engine = MakeEngine(With(*store));  // lossless-max
  EXPECT_EQ(Serve(*engine, longer).finish.cached_tokens, 2 * kRun);
  engine->Drain(Now() + seconds(60));
  EXPECT_EQ(engine->stats().prefix.pushed_runs, 2u);  // the two new runs; what was loaded is not coded again
  const store::KeySpace keys{.model_fingerprint = DemoModel().fingerprint(),
                             .rope = RopeHash(DemoModel().config().rope),
                             .run_tokens = kRun,
                             .tenant = {},
                             .salt = {}};
  const auto chain = store::KeyChain(keys, longer.prompt);
  const auto found = store->Lookup(chain, 0, Now() + seconds(1));
  ASSERT_TRUE(found.ok());
  ASSERT_EQ(found->size(), 4u);
  for (const store::EntryInfo& entry : *found) EXPECT_EQ(entry.quality, 900);
}

TEST(EnginePrefixUnit, TenantsAndSaltsShareNothing) {
  const auto store = Memory();
  const Request request = GreedyRequest(NoisePrompt(23, 2 * kRun + 1), 1);
  Fill(*store, request);
  EngineOptions options = With(*store);
  options.prefix.salt = "pepper";
  auto salted = MakeEngine(options);
  EXPECT_EQ(Serve(*salted, request).finish.cached_tokens, 0u);
  salted.reset();
  options.prefix.salt.clear();
  options.prefix.tenant = "other";
  const auto other = MakeEngine(options);
  EXPECT_EQ(Serve(*other, request).finish.cached_tokens, 0u);
}

TEST(EnginePrefixSafety, BadOptionsAreRefusedByName) {
  const auto store = Memory();
  const auto refusal = [&](auto change) {
    EngineOptions options = With(*store);
    change(options.prefix);
    const auto engine = Engine::Create(DemoModel(), options, nullptr, nullptr);
    return engine.ok() ? std::string() : engine.status().message();
  };
  EXPECT_NE(refusal([](PrefixOptions& o) { o.run_tokens = 100; }).find("block run"), std::string::npos);
  EXPECT_NE(refusal([](PrefixOptions& o) { o.timeout = {}; }).find("timeout"), std::string::npos);
  EXPECT_NE(refusal([](PrefixOptions& o) { o.quality = 1001; }).find("thousandths"), std::string::npos);
  EXPECT_NE(refusal([](PrefixOptions& o) { o.strategy = Parsed("c11"); }).find("store strategy"),
            std::string::npos);
}

// ---- Beside transfers

TEST(EnginePrefixUnit, APrefillNodeOffersWhatItLoaded) {
  const Request request = GreedyRequest(NoisePrompt(24, 4 * kRun + 9), 12);
  const auto expected = Expected(request);
  const auto memory = Memory();
  Fill(*memory, request);
  for (const LoadPolicy policy : {LoadPolicy::kAlways, LoadPolicy::kAdaptive}) {
    const auto transport = transport::CreateInprocTransport();
    const auto sender = *transfer::KvSender::Create(*transport, {.endpoint = "inproc://prefill"});
    const auto receiver = *transfer::KvReceiver::Create(*transport, {});
    const auto prefill = *Engine::Create(DemoModel(0), With(*memory, policy), sender.get(), nullptr);
    const auto decode = *Engine::Create(DemoModel(1), With(*memory, policy), nullptr, receiver.get());
    Request sent = request;
    sent.remote_decode = RemoteDecode{.transfer_id = "a", .strategy = {}};
    Request received = request;
    received.remote_prefill = RemotePrefill{.transfer_id = "a", .endpoint = "inproc://prefill"};
    const auto prefilled = Submit(*prefill, std::move(sent));
    const auto decoded = Submit(*decode, std::move(received));
    ASSERT_TRUE(decoded->WaitForFinish());
    ASSERT_TRUE(prefilled->WaitForFinish());
    EXPECT_EQ(decoded->tokens(), expected);
    EXPECT_EQ(decoded->finish().source, KvSource::kTransfer) << decoded->finish().recompute_reason;
    EXPECT_EQ(prefilled->finish().cached_tokens, 4 * kRun);
    ExpectNothingLeft(*decode);
    ExpectNothingLeft(*prefill);
  }
}

TEST(EnginePrefixUnit, ADecodeNodeWhosePullFailsLoads) {
  const Request request = GreedyRequest(NoisePrompt(25, 3 * kRun + 9), 12);
  const auto expected = Expected(request);
  const auto memory = Memory();
  Fill(*memory, request);
  const auto transport = transport::CreateInprocTransport();
  const auto receiver = *transfer::KvReceiver::Create(*transport, {});
  const auto decode = *Engine::Create(DemoModel(1), With(*memory), nullptr, receiver.get());
  Request received = request;
  received.remote_prefill = RemotePrefill{.transfer_id = "a", .endpoint = "inproc://nobody"};
  const Ran ran = Serve(*decode, received);
  EXPECT_EQ(ran.tokens, expected);
  EXPECT_EQ(ran.finish.source, KvSource::kRecompute);
  EXPECT_EQ(ran.finish.cached_tokens, 3 * kRun);
  ExpectNothingLeft(*decode);
}

}  // namespace
}  // namespace kvplane::engine

// Prompts that are computed while their prefix is still loading, alone and beside transfers.

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kvplane/engine/engine.h"
#include "kvplane/engine/testing/demo_model.h"
#include "kvplane/engine/testing/hooked_store.h"
#include "kvplane/engine/testing/prefix_fixture.h"
#include "kvplane/transport/inproc_transport.h"

namespace kvplane::engine {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

base::TimePoint Now() { return base::Clock::System().Now(); }

// A prefill and a decode node of one process.
struct Nodes {
  std::unique_ptr<transport::Transport> transport = transport::CreateInprocTransport();
  std::unique_ptr<transfer::KvSender> sender =
      *transfer::KvSender::Create(*transport, {.endpoint = "inproc://prefill"});
  std::unique_ptr<transfer::KvReceiver> receiver = *transfer::KvReceiver::Create(*transport, {});
  std::unique_ptr<Engine> prefill;
  std::unique_ptr<Engine> decode;

  explicit Nodes(const EngineOptions& options)
      : prefill(*Engine::Create(DemoModel(0), options, sender.get(), nullptr)),
        decode(*Engine::Create(DemoModel(1), {}, nullptr, receiver.get())) {}

  // What the decode node makes of the prefill node's KV.
  Ran Serve(const Request& request, const std::string& id) const {
    Request sent = request;
    sent.remote_decode = RemoteDecode{.transfer_id = id, .strategy = {}};
    Request received = request;
    received.remote_prefill = RemotePrefill{.transfer_id = id, .endpoint = "inproc://prefill"};
    const auto prefilled = Submit(*prefill, std::move(sent));
    const auto decoded = Submit(*decode, std::move(received));
    EXPECT_TRUE(decoded->WaitForFinish());
    EXPECT_TRUE(prefilled->WaitForFinish());
    return {decoded->tokens(), decoded->finish()};
  }
};

// How layers after the first come: slowly one by one, so that the prompt's rest is computed meanwhile; or not
// at all until a step that waited for them was given up.
enum class Later { kSlowly, kAfterAStall };

// A store whose later layers come like that, for one engine.
class LateStore {
 public:
  LateStore(const Request& request, Later later) : later_(later) {
    Fill(*memory_, request);
    store_.before_read = [this](auto requests, base::TimePoint) {
      if (!ReadsPrefixes(requests) && !ReadsFirstLayer(requests)) Hold();
      return base::Status::Ok();
    };
  }
  store::Store& store() { return store_; }
  void Watch(const Engine& engine) { engine_ = &engine; }
  // The engine has computed over a load in progress, or given such a step up.
  bool Seen() const {
    const PrefixStats stats = engine_->stats().prefix;
    return (later_ == Later::kSlowly ? stats.overlapped_steps : stats.stalled_steps) > 0;
  }

 private:
  void Hold() const {
    // Longer than a step waits for a load, shorter than a test has patience: whether a step begins before
    // that depends on when threads get to run.
    constexpr auto kLongest = milliseconds(400);
    const base::TimePoint end = Now() + (later_ == Later::kSlowly ? milliseconds(3) : kLongest);
    while (Now() < end && !(later_ == Later::kAfterAStall && Seen())) {
      base::Clock::System().SleepUntil(Now() + milliseconds(1));
    }
  }

  const Later later_;
  const std::shared_ptr<store::Store> memory_ = MemoryStore();
  HookedStore store_{memory_};
  const Engine* engine_ = nullptr;
};

constexpr int kRounds = 100;  // until it is seen

// Gives an engine the cost of a token.
void WarmUp(Engine& engine) {
  EXPECT_EQ(Serve(engine, GreedyRequest(NoisePrompt(8, 100), 1)).finish.reason, FinishReason::kLength);
}

// ---- Alone

TEST(EngineOverlapProperty, ComputingOverALoadGivesTheSameTokens) {
  const Request request = GreedyRequest(NoisePrompt(30, 4 * kRun + 90), 6);
  const auto expected = Expected(request);
  for (const LoadPolicy policy : {LoadPolicy::kAlways, LoadPolicy::kAdaptive}) {
    for (const Later later : {Later::kSlowly, Later::kAfterAStall}) {
      LateStore late(request, later);
      const auto engine = MakeEngine(WithStore(late.store(), policy));
      late.Watch(*engine);
      WarmUp(*engine);
      for (int round = 0; round < kRounds && !late.Seen(); ++round) {
        EXPECT_EQ(Serve(*engine, request).tokens, expected);
      }
      EXPECT_TRUE(late.Seen());
      ExpectNothingLeft(*engine);
    }
  }
}

// Beside others, whose tokens are in no step that may have to be given up (the engine checks that itself).
TEST(EngineOverlapProperty, OthersAreComputedMeanwhile) {
  std::vector<Request> requests;
  std::vector<std::vector<int32_t>> expected;
  const auto memory = MemoryStore();
  for (uint64_t i = 0; i < 5; ++i) {
    requests.push_back(GreedyRequest(NoisePrompt(40 + i, static_cast<uint32_t>(3 * kRun + 20 + 60 * i)), 4));
    expected.push_back(Expected(requests.back()));
    if (i != 2) Fill(*memory, requests.back());  // one has nothing there
  }
  for (const LoadPolicy policy : {LoadPolicy::kAlways, LoadPolicy::kAdaptive}) {
    HookedStore store(memory);
    store.before_read = [](auto reads, base::TimePoint) {
      if (!ReadsPrefixes(reads) && !ReadsFirstLayer(reads))
        base::Clock::System().SleepUntil(Now() + milliseconds(2));
      return base::Status::Ok();
    };
    EngineOptions options = WithStore(store, policy);
    options.step_tokens = 192;
    const auto engine = MakeEngine(options);
    WarmUp(*engine);
    for (int round = 0; round < 4; ++round) {
      std::vector<std::shared_ptr<Recorder>> recorders;
      for (const Request& request : requests) recorders.push_back(Submit(*engine, request));
      for (size_t i = 0; i < requests.size(); ++i) {
        ASSERT_TRUE(recorders[i]->WaitForFinish());
        EXPECT_EQ(recorders[i]->tokens(), expected[i]) << i << " of round " << round;
      }
    }
    ExpectNothingLeft(*engine);
  }
}

// A load that waits for the loader is not called stalled, however long the one before it hangs.
TEST(EngineOverlapUnit, AQueuedLoadIsNotStalled) {
  const Request hanging = GreedyRequest(NoisePrompt(31, 3 * kRun + 1), 4);
  const Request queued = GreedyRequest(NoisePrompt(32, 2 * kRun + 1), 4);
  const auto memory = MemoryStore();
  Fill(*memory, hanging);
  Fill(*memory, queued);
  HookedStore store(memory);
  Gate gate;
  std::atomic<bool> held = false;
  store.before_read = [&](auto, base::TimePoint) {
    return held.exchange(true) ? base::Status::Ok() : gate.Wait(base::kNoDeadline);  // the first read
  };
  EngineOptions options = WithStore(store);
  options.prefix.loader_threads = 1;
  options.prefix.timeout = milliseconds(500);
  const auto engine = MakeEngine(options);
  const auto first = Submit(*engine, hanging);
  ASSERT_TRUE(WaitUntil([&] { return held.load(); }));
  const auto second = Submit(*engine, queued);
  ASSERT_TRUE(first->WaitForFinish());  // given up after the timeout
  EXPECT_EQ(first->tokens(), Expected(hanging));
  EXPECT_EQ(first->finish().cached_tokens, 0u);
  gate.open = true;
  ASSERT_TRUE(second->WaitForFinish());
  EXPECT_EQ(second->tokens(), Expected(queued));
  EXPECT_EQ(second->finish().cached_tokens, 2 * kRun);
  EXPECT_EQ(Errors(engine->stats(), LoadError::kTimeout), 3u);
  EXPECT_EQ(Errors(engine->stats(), LoadError::kQueue), 0u);
  ExpectNothingLeft(*engine);
}

TEST(EngineOverlapUnit, ALoadWaitsForItsTurnOnlySoLong) {
  const Request slow = GreedyRequest(NoisePrompt(33, 3 * kRun + 1), 4);
  const Request queued = GreedyRequest(NoisePrompt(34, 2 * kRun + 1), 4);
  const auto memory = MemoryStore();
  Fill(*memory, slow);
  Fill(*memory, queued);
  HookedStore store(memory);
  Gate gate;
  std::atomic<bool> held = false;
  store.before_read = [&](auto, base::TimePoint deadline) {
    return held.exchange(true) ? base::Status::Ok() : gate.Wait(deadline);
  };
  EngineOptions options = WithStore(store);
  options.prefix.loader_threads = 1;
  options.prefix.queue_timeout = milliseconds(50);
  const auto engine = MakeEngine(options);
  const auto first = Submit(*engine, slow);
  ASSERT_TRUE(WaitUntil([&] { return held.load(); }));
  const auto second = Submit(*engine, queued);
  ASSERT_TRUE(second->WaitForFinish());
  EXPECT_EQ(second->tokens(), Expected(queued));
  EXPECT_EQ(second->finish().cached_tokens, 0u);
  EXPECT_EQ(Errors(engine->stats(), LoadError::kQueue), 2u);
  gate.open = true;
  ASSERT_TRUE(first->WaitForFinish());
  EXPECT_EQ(first->tokens(), Expected(slow));
  EXPECT_EQ(Errors(engine->stats(), LoadError::kTimeout), 0u);
  ExpectNothingLeft(*engine);
}

// ---- Beside transfers

TEST(EnginePrefixUnit, APrefillNodeOffersWhatItLoaded) {
  const Request request = GreedyRequest(NoisePrompt(24, 4 * kRun + 9), 12);
  const auto expected = Expected(request);
  const auto memory = MemoryStore();
  Fill(*memory, request);
  for (const LoadPolicy policy : {LoadPolicy::kAlways, LoadPolicy::kAdaptive}) {
    Nodes nodes(WithStore(*memory, policy));
    const Ran ran = nodes.Serve(request, "a");
    EXPECT_EQ(ran.tokens, expected);
    EXPECT_EQ(ran.finish.source, KvSource::kTransfer) << ran.finish.recompute_reason;
    const PrefixStats stats = nodes.prefill->stats().prefix;
    EXPECT_EQ(stats.loaded_tokens + stats.taken_runs * kRun, 4 * kRun);
    if (policy == LoadPolicy::kAlways) {
      EXPECT_EQ(stats.taken_runs, 0u);
    }
    ExpectNothingLeft(*nodes.decode);
    ExpectNothingLeft(*nodes.prefill);
  }
}

// A step over a load in progress posts what it computes only when it cannot be given up any more, so that the
// decode node gets every layer once, and the same KV.
TEST(EngineOverlapProperty, APrefillNodeComputesOverALoad) {
  const Request request = GreedyRequest(NoisePrompt(35, 4 * kRun + 90), 6);
  const auto expected = Expected(request);
  for (const Later later : {Later::kSlowly, Later::kAfterAStall}) {
    LateStore late(request, later);
    Nodes nodes(WithStore(late.store()));
    late.Watch(*nodes.prefill);
    WarmUp(*nodes.prefill);
    for (int round = 0; round < kRounds && !late.Seen(); ++round) {
      const Ran ran = nodes.Serve(request, std::to_string(round));
      EXPECT_EQ(ran.tokens, expected);
      EXPECT_EQ(ran.finish.source, KvSource::kTransfer) << ran.finish.recompute_reason;
    }
    EXPECT_TRUE(late.Seen());
    ExpectNothingLeft(*nodes.decode);
    ExpectNothingLeft(*nodes.prefill);
  }
}

TEST(EnginePrefixUnit, ADecodeNodeWhosePullFailsLoads) {
  const Request request = GreedyRequest(NoisePrompt(25, 3 * kRun + 9), 12);
  const auto expected = Expected(request);
  const auto memory = MemoryStore();
  Fill(*memory, request);
  const auto transport = transport::CreateInprocTransport();
  const auto receiver = *transfer::KvReceiver::Create(*transport, {});
  const auto decode = *Engine::Create(DemoModel(1), WithStore(*memory), nullptr, receiver.get());
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

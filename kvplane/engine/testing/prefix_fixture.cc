#include "kvplane/engine/testing/prefix_fixture.h"

#include <gtest/gtest.h>

#include <utility>

#include "kvplane/engine/testing/demo_model.h"
#include "kvplane/store/dram_store.h"

namespace kvplane::engine {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Of an object of kRun tokens of the demo model: its prefix is shorter than this, a layer is longer.
constexpr uint64_t kBetweenPrefixAndLayer = 16 << 10;

base::TimePoint Now() { return base::Clock::System().Now(); }

}  // namespace

std::shared_ptr<store::Store> MemoryStore() {
  return *store::DramStore::Create({.capacity_bytes = 256 << 20});
}

codec::Strategy Parsed(std::string_view text) { return *codec::Strategy::Parse(text); }

EngineOptions WithStore(store::Store& store, LoadPolicy load) {
  EngineOptions options;
  options.prefix.store = &store;
  options.prefix.run_tokens = kRun;
  options.prefix.strategy = Parsed("lossless-max");
  options.prefix.load = load;
  options.prefix.timeout = seconds(60);
  options.prefix.queue_timeout = seconds(60);
  return options;
}

std::unique_ptr<Engine> MakeEngine(const EngineOptions& options) {
  auto engine = Engine::Create(DemoModel(), options, nullptr, nullptr);
  EXPECT_TRUE(engine.ok()) << engine.status().ToString();
  return *std::move(engine);
}

std::shared_ptr<Recorder> Submit(Engine& engine, Request request, base::RequestId* id) {
  auto recorder = std::make_shared<Recorder>();
  const auto submitted = engine.Submit(std::move(request), recorder);
  EXPECT_TRUE(submitted.ok()) << submitted.status().ToString();
  if (id != nullptr && submitted.ok()) *id = *submitted;
  return recorder;
}

Ran Serve(Engine& engine, Request request) {
  const auto recorder = Submit(engine, std::move(request));
  EXPECT_TRUE(recorder->WaitForFinish());
  EXPECT_TRUE(recorder->in_order());
  return {recorder->tokens(), recorder->finish()};
}

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

void Fill(store::Store& store, const Request& request) {
  const auto engine = MakeEngine(WithStore(store));
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

base::Status Gate::Wait(base::TimePoint deadline) {
  while (!open) {
    if (Now() >= deadline) return base::DeadlineExceeded("the gate is closed");
    base::Clock::System().SleepUntil(Now() + milliseconds(1));
  }
  return base::Status::Ok();
}

bool ReadsPrefixes(std::span<const store::ReadRequest> requests) { return requests[0].offset == 0; }

bool ReadsFirstLayer(std::span<const store::ReadRequest> requests) {
  return !ReadsPrefixes(requests) && requests[0].offset < kBetweenPrefixAndLayer;
}

}  // namespace kvplane::engine

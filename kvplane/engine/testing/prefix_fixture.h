// What tests of prefixes share: engines over the demo model with a store, and what they leave behind. For
// tests only.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/codec/strategy.h"
#include "kvplane/engine/engine.h"
#include "kvplane/engine/testing/recorder.h"
#include "kvplane/store/store.h"

namespace kvplane::engine {

constexpr uint32_t kRun = 128;  // tokens of a stored run

std::shared_ptr<store::Store> MemoryStore();
codec::Strategy Parsed(std::string_view text);

// Runs of kRun in lossless-max, and no deadline that a sanitizer on a busy machine could miss: tests of
// deadlines set their own.
EngineOptions WithStore(store::Store& store, LoadPolicy load = LoadPolicy::kAlways);
std::unique_ptr<Engine> MakeEngine(const EngineOptions& options = {});

std::shared_ptr<Recorder> Submit(Engine& engine, Request request, base::RequestId* id = nullptr);
struct Ran {
  std::vector<int32_t> tokens;
  FinishEvent finish;
};
Ran Serve(Engine& engine, Request request);

// Tokens of an engine without a store, on the other copy of the model: that of the engine under test is its
// alone.
std::vector<int32_t> Expected(const Request& request);

// Fills the store with the prompt's runs and ends the engine that did it.
void Fill(store::Store& store, const Request& request);

// False when it did not come true within Recorder::kPatience.
bool WaitUntil(const std::function<bool()>& condition);

// Drains; then nothing runs, nothing is held, and every request is accounted for.
void ExpectNothingLeft(Engine& engine);

uint64_t Errors(const EngineStats& stats, LoadError error);

// Holds callers until the test opens it.
struct Gate {
  std::atomic<bool> open = false;

  base::Status Wait(base::TimePoint deadline);
};

// Whether a read is of the objects' prefixes, which come before any layer; or of their first layer.
bool ReadsPrefixes(std::span<const store::ReadRequest> requests);
bool ReadsFirstLayer(std::span<const store::ReadRequest> requests);

}  // namespace kvplane::engine

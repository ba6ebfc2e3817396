// The parts behind prefixes: who owns a run, what is measured, what an object must be.

#include "kvplane/engine/load_job.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "kvplane/base/rng.h"
#include "kvplane/cache/block_pool.h"
#include "kvplane/engine/kv_arena.h"
#include "kvplane/engine/request_pages.h"
#include "kvplane/engine/run_object.h"
#include "kvplane/engine/tier_estimates.h"
#include "kvplane/tensor/dtype.h"

namespace kvplane::engine {
namespace {

using RunState = LoadJob::RunState;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr uint32_t kLayers = 4;

base::TimePoint Now() { return base::Clock::System().Now(); }

struct Told {
  std::atomic<int> progress = 0;
  std::atomic<int> done = 0;
};

std::unique_ptr<LoadJob> MakeJob(Told& told, uint32_t runs, uint32_t head_runs = 0, uint64_t unit_bytes = 1) {
  LoadJobOptions options;
  options.runs.resize(runs);
  for (StoredRun& run : options.runs) run.entry.bytes = 100;
  options.layers = kLayers;
  options.head_runs = head_runs;
  options.unit_bytes = unit_bytes;
  options.on_progress = [&told] { ++told.progress; };
  options.on_done = [&told] { ++told.done; };
  return std::make_unique<LoadJob>(std::move(options));
}

// As a loader does that has no other load.
std::optional<LoadJob::Work> Next(LoadJob& job) {
  auto work = job.NextWork(LoadJob::Part::kTail);
  return work ? work : job.NextWork(LoadJob::Part::kHead);
}

// Gets the opening out of the way.
void Open(LoadJob& job) {
  const auto work = Next(job);
  ASSERT_TRUE(work && work->open);
  EXPECT_FALSE(Next(job).has_value());  // nobody else opens it
  EXPECT_FALSE(job.exhausted());
  job.SetReaders(std::vector<std::shared_ptr<const codec::ObjectReader>>(job.runs()));
  job.EndWork();
}

void Land(LoadJob& job, uint32_t run, uint32_t layer) {
  ASSERT_TRUE(job.BeginWrite(run));
  job.EndWrite(run, layer, 25);
}

TEST(LoadJobUnit, LayersComeInOrderOfAllRuns) {
  Told told;
  const auto job = MakeJob(told, 2);
  Open(*job);
  std::vector<std::pair<uint32_t, uint32_t>> order;  // run, layer
  while (const auto work = Next(*job)) {
    for (const LoadJob::Piece& piece : work->pieces) {
      for (uint32_t layer = piece.layer_begin; layer < piece.layer_end; ++layer) {
        order.emplace_back(piece.run, layer);
        Land(*job, piece.run, layer);
      }
    }
  }
  const std::vector<std::pair<uint32_t, uint32_t>> expected = {{0, 0}, {1, 0}, {0, 1}, {1, 1},
                                                               {0, 2}, {1, 2}, {0, 3}, {1, 3}};
  EXPECT_EQ(order, expected);
  EXPECT_EQ(job->state(0), RunState::kLanded);
  EXPECT_EQ(job->state(1), RunState::kLanded);
  EXPECT_EQ(told.done, 1);
  EXPECT_TRUE(job->exhausted());
  EXPECT_EQ(job->progress().pending, 0u);
  EXPECT_EQ(job->pace().bytes, 200u);
}

TEST(LoadJobUnit, RunsComeFromTheBack) {
  Told told;
  const auto job = MakeJob(told, 5, 5, 200);
  Open(*job);
  std::vector<uint32_t> order;
  std::vector<size_t> units;
  while (const auto work = Next(*job)) {
    units.push_back(work->pieces.size());
    for (const LoadJob::Piece& piece : work->pieces) {
      order.push_back(piece.run);
      EXPECT_EQ(piece.layer_begin, 0u);
      EXPECT_EQ(piece.layer_end, kLayers);
    }
  }
  EXPECT_EQ(order, (std::vector<uint32_t>{4, 3, 2, 1, 0}));
  EXPECT_EQ(units, (std::vector<size_t>{2, 2, 1}));
}

// The tail layer by layer, then the head that was to be computed, from its back.
TEST(LoadJobUnit, TheTailComesBeforeTheHead) {
  Told told;
  const auto job = MakeJob(told, 4, 2);
  Open(*job);
  std::vector<std::pair<uint32_t, uint32_t>> order;  // run, layers
  while (const auto work = Next(*job)) {
    for (const LoadJob::Piece& piece : work->pieces) {
      order.emplace_back(piece.run, piece.layer_end - piece.layer_begin);
    }
    job->EndWork();
  }
  const std::vector<std::pair<uint32_t, uint32_t>> expected = {{2, 1}, {3, 1}, {2, 1}, {3, 1}, {2, 1},
                                                               {3, 1}, {2, 1}, {3, 1}, {1, 4}, {0, 4}};
  EXPECT_EQ(order, expected);
}

// The loader asks for the heads of loads when no tail is left of any.
TEST(LoadJobUnit, TheHeadIsAPartOfItsOwn) {
  Told told;
  const auto job = MakeJob(told, 3, 1);
  EXPECT_FALSE(job->NextWork(LoadJob::Part::kHead).has_value());  // not before it was opened
  Open(*job);
  EXPECT_EQ(job->progress().head_bytes, 100u);
  uint32_t tail = 0;
  while (const auto work = job->NextWork(LoadJob::Part::kTail)) {
    ++tail;
    for (const LoadJob::Piece& piece : work->pieces) EXPECT_GE(piece.run, 1u);
    job->EndWork();
  }
  EXPECT_EQ(tail, 2 * kLayers);
  EXPECT_FALSE(job->exhausted());
  EXPECT_EQ(job->progress().head_bytes, 100u);
  const auto head = job->NextWork(LoadJob::Part::kHead);
  ASSERT_TRUE(head.has_value());
  EXPECT_EQ(head->pieces[0].run, 0u);
  Land(*job, 0, 0);
  EXPECT_EQ(job->progress().head_bytes, 75u);
  EXPECT_TRUE(job->Take(0));
  EXPECT_EQ(job->progress().head_bytes, 0u);
  EXPECT_TRUE(job->exhausted());
}

TEST(LoadJobUnit, AHeadThatIsNotComputedIsLoadedWithTheTail) {
  Told told;
  const auto job = MakeJob(told, 2, 1);
  Open(*job);
  while (job->NextWork(LoadJob::Part::kTail)) job->EndWork();
  EXPECT_EQ(job->progress().head_bytes, 100u);
  job->LoadHead();
  EXPECT_EQ(job->progress().head_bytes, 0u);
  const auto work = job->NextWork(LoadJob::Part::kTail);
  ASSERT_TRUE(work.has_value());
  EXPECT_EQ(work->pieces[0].run, 0u);
  EXPECT_TRUE(job->exhausted());
}

// A load's clock runs while a read of it is in progress, not while it waits for others.
TEST(LoadJobUnit, WaitingForItsTurnIsNotReading) {
  Told told;
  const auto job = MakeJob(told, 1);
  LoadJob::Progress progress = job->progress();
  EXPECT_FALSE(progress.reading);
  EXPECT_FALSE(progress.started.has_value());
  EXPECT_EQ(progress.since, progress.created);
  ASSERT_TRUE(Next(*job));
  progress = job->progress();
  EXPECT_TRUE(progress.reading);
  ASSERT_TRUE(progress.started.has_value());
  EXPECT_EQ(progress.since, *progress.started);
  job->SetReaders(std::vector<std::shared_ptr<const codec::ObjectReader>>(1));
  job->EndWork();
  EXPECT_FALSE(job->progress().reading);
  const base::TimePoint idle_since = job->progress().since;
  ASSERT_TRUE(Next(*job));
  ASSERT_TRUE(Next(*job));  // by two threads
  job->EndWork();
  progress = job->progress();
  EXPECT_TRUE(progress.reading);
  EXPECT_GE(progress.since, idle_since);
  Land(*job, 0, 0);
  EXPECT_GE(job->progress().since, progress.since);
  job->EndWork();
  EXPECT_FALSE(job->progress().reading);
}

TEST(LoadJobUnit, SaysWhatIsMissing) {
  Told told;
  const auto job = MakeJob(told, 3);
  Open(*job);
  EXPECT_EQ(job->missing_bytes(), (std::vector<uint64_t>{100, 100, 100}));
  Land(*job, 1, 0);
  for (uint32_t layer = 0; layer < kLayers; ++layer) Land(*job, 2, layer);
  EXPECT_EQ(job->missing_bytes(), (std::vector<uint64_t>{100, 75, 0}));
  EXPECT_FALSE(job->complete());
  EXPECT_TRUE(job->Take(0));
  EXPECT_TRUE(job->FailRun(1, LoadError::kOther, base::Internal("gone")));
  EXPECT_FALSE(job->complete()) << "a run has failed and nobody has taken it";
  EXPECT_TRUE(job->Take(1));
  EXPECT_TRUE(job->complete());
}

TEST(LoadJobUnit, TakenRunsAreNeitherReadNorWritten) {
  Told told;
  const auto job = MakeJob(told, 3, 3);
  Open(*job);
  EXPECT_TRUE(job->Take(0));
  EXPECT_FALSE(job->BeginWrite(0));
  EXPECT_TRUE(job->BeginWrite(2));
  EXPECT_FALSE(job->Take(2)) << "a loader writes into it";
  job->EndWrite(2, 0, 25);
  EXPECT_TRUE(job->Take(2)) << "between two layers it may be taken";
  const auto work = Next(*job);
  ASSERT_TRUE(work.has_value());
  EXPECT_EQ(work->pieces[0].run, 1u);
  EXPECT_FALSE(Next(*job).has_value());
  EXPECT_EQ(job->progress().bytes_total, 100u);
  EXPECT_EQ(told.done, 0);
  for (uint32_t layer = 0; layer < kLayers; ++layer) Land(*job, 1, layer);
  EXPECT_EQ(told.done, 1);
  EXPECT_FALSE(job->Take(1)) << "it has landed";
}

TEST(LoadJobUnit, AFailedRunIsTheEnginesOnceNobodyWritesIntoIt) {
  Told told;
  const auto job = MakeJob(told, 2);
  Open(*job);
  ASSERT_TRUE(job->BeginWrite(0));
  ASSERT_TRUE(job->BeginWrite(0));  // two threads, two layers
  job->AbortWrite(0, LoadError::kCorrupt, base::Corrupt("tile 3"));
  EXPECT_EQ(job->state(0), RunState::kFailed);
  EXPECT_FALSE(job->Take(0));
  EXPECT_EQ(job->WaitForLayer(0, Now() + seconds(60)), LoadJob::Wait::kFailed);
  job->EndWrite(0, 1, 25);
  EXPECT_TRUE(job->Take(0));
  EXPECT_NE(job->first_error().message().find("tile 3"), std::string::npos);
  EXPECT_FALSE(job->FailRun(0, LoadError::kOther, base::Internal("late")));
  EXPECT_EQ(job->FailPending(LoadError::kTimeout, "stalled"), 1u);
  EXPECT_EQ(told.done, 1);
}

TEST(LoadJobUnit, TakeAllSaysWhetherALoaderIsInside) {
  Told told;
  const auto job = MakeJob(told, 2);
  Open(*job);
  ASSERT_TRUE(job->BeginWrite(1));
  EXPECT_FALSE(job->TakeAll());
  EXPECT_EQ(told.done, 0);
  job->EndWrite(1, 0, 25);
  EXPECT_EQ(told.done, 1);
  EXPECT_EQ(job->state(1), RunState::kTaken);
  const auto other = MakeJob(told, 2);
  EXPECT_TRUE(other->TakeAll());
  EXPECT_FALSE(Next(*other).has_value());
  EXPECT_TRUE(other->exhausted());
  EXPECT_EQ(told.done, 1);
}

TEST(LoadJobUnit, WaitsForALayerOfAllRuns) {
  Told told;
  const auto job = MakeJob(told, 2);
  Open(*job);
  EXPECT_EQ(job->WaitForLayer(0, Now() + milliseconds(1)), LoadJob::Wait::kTimeout);
  Land(*job, 0, 0);
  EXPECT_EQ(job->progress().layers_ready, 0u);
  std::thread loader([&] { Land(*job, 1, 0); });
  EXPECT_EQ(job->WaitForLayer(0, Now() + seconds(60)), LoadJob::Wait::kReady);
  loader.join();
  EXPECT_EQ(job->progress().layers_ready, 1u);
}

// Loaders and a taker at once: every run ends in one place, on_done comes once, and a taken run is never
// written into.
TEST(LoadJobProperty, OneOwnerPerRun) {
  base::Rng seeds(3);
  for (int round = 0; round < 50; ++round) {
    constexpr uint32_t kRuns = 24;
    Told told;
    const auto job = MakeJob(told, kRuns, static_cast<uint32_t>(round) % (kRuns + 1), 150);
    Open(*job);
    std::vector<std::atomic<int>> owner(kRuns);  // 1: the engine's
    std::atomic<bool> mixed = false;
    const auto load = [&](uint64_t seed) {
      base::Rng rng(seed);
      while (const auto work = Next(*job)) {
        for (const LoadJob::Piece& piece : work->pieces) {
          for (uint32_t layer = piece.layer_begin; layer < piece.layer_end; ++layer) {
            if (!job->BeginWrite(piece.run)) break;
            if (owner[piece.run] == 1) mixed = true;
            if (rng.Below(60) == 0) {
              job->AbortWrite(piece.run, LoadError::kCorrupt, base::Corrupt("flipped"));
              break;
            }
            if (owner[piece.run] == 1) mixed = true;
            job->EndWrite(piece.run, layer, 25);
          }
        }
      }
    };
    std::thread first(load, seeds.Next()), second(load, seeds.Next());
    uint32_t taken = 0;
    base::Rng taker(seeds.Next());
    for (uint32_t run = 0; run < kRuns; ++run) {
      while (true) {
        if (job->state(run) == RunState::kLanded) break;
        if (taker.Below(100) == 0 && job->Take(run)) {
          owner[run] = 1;
          ++taken;
          break;
        }
      }
    }
    first.join();
    second.join();
    EXPECT_FALSE(mixed);
    EXPECT_EQ(told.done, 1);
    uint32_t landed = 0;
    for (uint32_t run = 0; run < kRuns; ++run) landed += job->state(run) == RunState::kLanded ? 1u : 0u;
    EXPECT_EQ(landed + taken, kRuns);
  }
}

// ---- Estimates

TEST(TierEstimatesUnit, MixesMeasurementsAndForgetsOldOnes) {
  TierEstimates estimates;
  const base::TimePoint start = Now();
  const auto signals = [&](base::Duration later) {
    return estimates.Signals(2, store::TierKind::kDisk, start + later);
  };
  const double at_start = signals({}).tiers[1].bytes_per_s;
  EXPECT_GT(at_start, 0);
  EXPECT_FALSE(signals({}).prefill.known());
  estimates.AddLoad(store::TierKind::kDisk, 1000, 1, 1.0, start);
  EXPECT_DOUBLE_EQ(signals({}).tiers[1].bytes_per_s, 1000);
  estimates.AddLoad(store::TierKind::kDisk, 2000, 1, 1.0, start);
  EXPECT_DOUBLE_EQ(signals({}).tiers[1].bytes_per_s, 1000 + TierEstimates::kWeight * 1000);
  EXPECT_DOUBLE_EQ(signals(TierEstimates::kForget).tiers[1].bytes_per_s, at_start);
  estimates.AddLatency(store::TierKind::kRemote, 0.5, start);
  EXPECT_DOUBLE_EQ(signals({}).tiers[2].latency_s, 0.5);
  estimates.AddDecode(10, 1.0);
  EXPECT_DOUBLE_EQ(signals({}).decode_tokens_per_s, 20);  // of two threads
}

TierEstimates::PrefillStep Step(uint32_t first_token, uint32_t tokens, double time_s, bool shared = false) {
  TierEstimates::PrefillStep step{.seconds = time_s, .shared = shared};
  step.Add(first_token, tokens);
  return step;
}

// Steps that cost 10 us a token and 20 ns for each earlier token, at all positions.
TEST(TierEstimatesUnit, FitsTheCostOfATokenToItsPosition) {
  const control::PrefillCost truth{.per_token_s = 1e-5, .per_attended_s = 2e-8};
  TierEstimates estimates;
  for (int i = 0; i < 4; ++i) {
    for (uint32_t first = 0; first < 4096; first += 512) {
      estimates.AddPrefill(Step(first, 512, truth.Seconds(first, first + 512)));
    }
  }
  for (const uint32_t end : {512u, 2048u, 4096u}) {
    EXPECT_NEAR(estimates.prefill().Seconds(0, end) / truth.Seconds(0, end), 1, 0.15) << end;
  }
  EXPECT_NEAR(estimates.Signals(2, store::TierKind::kDram, Now()).uncertainty, 0, 0.05);
}

TEST(TierEstimatesUnit, WithOneStepTheCostIsTheSameEverywhere) {
  TierEstimates estimates;
  EXPECT_FALSE(estimates.prefill().known());
  estimates.AddPrefill(Step(1000, 100, 0.5));
  EXPECT_DOUBLE_EQ(estimates.prefill().Seconds(0, 100), 0.5);
  EXPECT_DOUBLE_EQ(estimates.prefill().slowdown, 1);
}

TEST(TierEstimatesUnit, StepsBesideALoadGiveTheSlowdown) {
  TierEstimates estimates;
  estimates.AddPrefill(Step(0, 100, 1.5, /*shared=*/true));
  EXPECT_DOUBLE_EQ(estimates.prefill().Seconds(0, 100), 1.5) << "nothing else is known";
  EXPECT_DOUBLE_EQ(estimates.prefill().slowdown, 1);
  estimates.AddPrefill(Step(0, 100, 1.0));
  estimates.AddPrefill(Step(0, 100, 1.5, /*shared=*/true));
  EXPECT_DOUBLE_EQ(estimates.prefill().Seconds(0, 100), 1.0);
  EXPECT_DOUBLE_EQ(estimates.prefill().slowdown, 1.5);
  estimates.AddPrefill(Step(0, 100, 50.0, /*shared=*/true));  // interrupted
  EXPECT_DOUBLE_EQ(estimates.prefill().slowdown, 1.5 + TierEstimates::kWeight * 1.5);
}

// One layer of a load that was taken: half a unit counts half, a sixteenth hardly at all.
TEST(TierEstimatesUnit, ALoadOfLessThanAUnitCountsByItsPart) {
  TierEstimates estimates;
  const base::TimePoint start = Now();
  const auto goodput = [&] {
    return estimates.Signals(2, store::TierKind::kDisk, start).tiers[1].bytes_per_s;
  };
  const double at_start = goodput();
  estimates.AddLoad(store::TierKind::kDisk, 100, 400, 1.0, start);
  EXPECT_DOUBLE_EQ(goodput(), 0.75 * at_start + 25);
  TierEstimates measured;
  measured.AddLoad(store::TierKind::kDisk, 1'000'000, 1'000'000, 1.0, start);
  measured.AddLoad(store::TierKind::kDisk, 62'500, 1'000'000, 1.0, start);
  const double weight = TierEstimates::kWeight / 16;
  EXPECT_DOUBLE_EQ(measured.Signals(2, store::TierKind::kDisk, start).tiers[1].bytes_per_s,
                   1'000'000 - weight * 937'500);
  EXPECT_DOUBLE_EQ(measured.Signals(2, store::TierKind::kDisk, start).uncertainty,
                   weight);  // at most all of it
}

TEST(TierEstimatesUnit, WhatStraysIsUncertain) {
  TierEstimates estimates;
  const base::TimePoint start = Now();
  const auto of = [&](store::TierKind tier) { return estimates.Signals(2, tier, start).uncertainty; };
  estimates.AddLoad(store::TierKind::kDisk, 1000, 1, 1.0, start);
  EXPECT_DOUBLE_EQ(of(store::TierKind::kDisk), 0);
  estimates.AddLoad(store::TierKind::kDisk, 500, 1, 1.0, start);  // half as fast: twice the time
  EXPECT_DOUBLE_EQ(of(store::TierKind::kDisk), TierEstimates::kWeight);
  EXPECT_DOUBLE_EQ(of(store::TierKind::kDram), 0);
  estimates.AddPrefill(Step(0, 100, 1.0));
  estimates.AddPrefill(Step(0, 100, 1.5));
  EXPECT_DOUBLE_EQ(of(store::TierKind::kDram), TierEstimates::kWeight * 0.5);
}

// ---- Objects of runs

struct Pages {
  std::shared_ptr<KvArena> arena;
  cache::BlockPool pool;
  RequestPages pages;

  Pages(const tensor::KvGeometry& geometry, uint32_t block_tokens, uint32_t tokens)
      : arena(*KvArena::Create(tensor::PageFormat::HeadMajor(geometry, block_tokens), 4 << 20,
                               geometry.layers)),
        pool(arena->pages()),
        pages(pool, *arena, geometry.layers) {
    pages.Grow(tokens);
  }
  PinnedPages Pin() const { return PinnedPages(pages.layers(), arena); }
};

uint16_t& ValueAt(const PinnedPages& pages, uint32_t layer, tensor::Side side, uint32_t token, uint32_t head,
                  uint32_t lane) {
  const tensor::LayerPages& of = pages.layer(layer);
  uint16_t* page = of.pages[token / of.format.block_tokens];
  return page[of.format.offset(side, token % of.format.block_tokens, head) + lane];
}

TEST(RunObjectProperty, RunsComeBackAtTheirPlaceWhateverThePages) {
  const tensor::KvGeometry geometry{.layers = 2, .kv_heads = 2, .head_dim = 16};
  RunShape shape{.geometry = geometry, .run_tokens = 128};
  shape.model_fingerprint[3] = std::byte{7};
  const RunCoding coding = *BindRunCoding(*codec::Strategy::Parse("lossless-max"), nullptr);
  store::StoreKey key;
  key.chain[0] = std::byte{9};
  codec::Workspace workspace;
  for (const uint32_t block_tokens : {16u, 48u, 64u, 100u, 512u}) {
    SCOPED_TRACE(block_tokens);
    Pages from(geometry, block_tokens, 384), to(geometry, 64, 384);
    const PinnedPages source = from.Pin(), target = to.Pin();
    base::Rng rng(block_tokens);
    const auto for_all = [&](auto body) {
      for (uint32_t layer = 0; layer < geometry.layers; ++layer) {
        for (const tensor::Side side : tensor::kSides) {
          for (uint32_t token = 0; token < 384; ++token) {
            for (uint32_t lane = 0; lane < 32; ++lane) body(layer, side, token, lane / 16, lane % 16);
          }
        }
      }
    };
    for_all([&](uint32_t layer, tensor::Side side, uint32_t token, uint32_t head, uint32_t lane) {
      ValueAt(source, layer, side, token, head, lane) = tensor::FloatToBf16(static_cast<float>(rng.Normal()));
      ValueAt(target, layer, side, token, head, lane) = 0xbeef;
    });
    const auto object = EncodeRun(shape, coding, key, 1, source, workspace);
    ASSERT_TRUE(object.ok()) << object.status().ToString();
    const auto reader = codec::ObjectReader::Open(*object);
    ASSERT_TRUE(reader.ok());
    EXPECT_TRUE(CheckRun(reader->info(), shape, key, 1).ok());
    for (uint32_t layer = 0; layer < geometry.layers; ++layer) {
      const auto range = reader->layer_range(layer);
      const auto section = std::span<const std::byte>(*object).subspan(range.offset, range.bytes);
      ASSERT_TRUE(DecodeRunLayer(*reader, layer, section, 1, target, workspace).ok());
    }
    bool equal = true;
    for_all([&](uint32_t layer, tensor::Side side, uint32_t token, uint32_t head, uint32_t lane) {
      const bool inside = token >= 128 && token < 256;
      const uint16_t wanted = inside ? ValueAt(source, layer, side, token, head, lane) : uint16_t{0xbeef};
      equal = equal && ValueAt(target, layer, side, token, head, lane) == wanted;
    });
    EXPECT_TRUE(equal);
  }
}

// What is kept of a run is charged by its size: there is no memory behind it.
TEST(RunObjectUnit, AnObjectOwnsNoMoreThanItShows) {
  const tensor::KvGeometry geometry{.layers = 3, .kv_heads = 2, .head_dim = 16};
  const RunShape shape{.geometry = geometry, .run_tokens = 128};
  Pages pages(geometry, 64, 128);
  const PinnedPages pinned = pages.Pin();
  base::Rng rng(5);
  for (uint32_t layer = 0; layer < geometry.layers; ++layer) {
    for (const tensor::Side side : tensor::kSides) {
      for (uint32_t token = 0; token < 128; ++token) {
        for (uint32_t lane = 0; lane < 32; ++lane) {
          ValueAt(pinned, layer, side, token, lane / 16, lane % 16) =
              tensor::FloatToBf16(static_cast<float>(rng.Normal()));
        }
      }
    }
  }
  codec::Workspace workspace;
  for (const char* strategy : {"off", "lossless-max", "int4"}) {
    const RunCoding coding = *BindRunCoding(*codec::Strategy::Parse(strategy), nullptr);
    const auto object = EncodeRun(shape, coding, {}, 0, pinned, workspace);
    ASSERT_TRUE(object.ok());
    EXPECT_EQ(object->capacity(), object->size()) << strategy;
    EXPECT_LE(object->size(), shape.most_object_bytes()) << strategy;
    EXPECT_LE(*codec::ObjectReader::PrefixBytes(*object), shape.most_prefix_bytes()) << strategy;
  }
}

TEST(RunObjectSafety, WhatDiffersIsNamed) {
  const RunShape shape{.geometry = {.layers = 2, .kv_heads = 2, .head_dim = 16}, .run_tokens = 128};
  store::StoreKey key;
  key.chain[0] = std::byte{9};
  codec::ObjectInfo info;
  info.geometry = shape.geometry;
  info.tokens = 128;
  info.first_token = 256;
  info.identity.token_chain = key.chain;
  ASSERT_TRUE(CheckRun(info, shape, key, 2).ok());
  const auto refusal = [&](auto change) {
    codec::ObjectInfo other = info;
    change(other);
    return CheckRun(other, shape, key, 2).message();
  };
  using Info = codec::ObjectInfo;
  EXPECT_NE(refusal([](Info& i) { i.identity.model_fingerprint[0] = std::byte{1}; }).find("model"),
            std::string::npos);
  EXPECT_NE(refusal([](Info& i) { i.identity.token_chain[0] = std::byte{1}; }).find("chain"),
            std::string::npos);
  EXPECT_NE(refusal([](Info& i) { i.identity.rope[0] = std::byte{1}; }).find("rotary"), std::string::npos);
  EXPECT_NE(refusal([](Info& i) { i.geometry.kv_heads = 1; }).find("geometry"), std::string::npos);
  EXPECT_NE(refusal([](Info& i) { i.tokens = 64; }).find("range"), std::string::npos);
  EXPECT_NE(refusal([](Info& i) { i.first_token = 128; }).find("range"), std::string::npos);
  EXPECT_NE(RopeHash({.theta = 10'000}), RopeHash({.theta = 10'001}));
}

}  // namespace
}  // namespace kvplane::engine

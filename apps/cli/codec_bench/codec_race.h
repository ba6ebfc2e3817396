// CodecRace: speed of several contestants on the same memory, so that noise hits all alike.
//
// Background: the machine is shared; its speed drifts by tens of percent within a run. Approach: contestants
// take turns in every round; every figure is a median over rounds, with its spread; on one core the thread's
// CPU time stands beside wall time (waiting for other work shows in wall time only; memory bandwidth and
// caches that others use show in both). On all cores the share of them that the workers had is noted: beside
// a program that keeps one of two cores busy, two threads are no faster than one.
//
// A timed turn covers as many jobs as a contestant can do in a slice of time, at least kLeastTurnBytes, and
// successive turns walk through all jobs, so that a slow contestant costs no more time than a fast one and
// none finds its input in the caches.
//
// Thread safety: none; owns the pool for the time of a call.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "apps/cli/codec_bench/contestant.h"
#include "kvplane/base/status.h"
#include "kvplane/base/thread_pool.h"

namespace kvplane::cli {

constexpr uint64_t kLeastTurnBytes = 16 << 20;

// Bytes of bf16 per second, one entry per round.
struct CodecSpeed {
  std::vector<double> encode;
  std::vector<double> decode;
};

struct RaceResult {
  CodecSpeed one_core;      // wall time, one thread
  CodecSpeed one_core_cpu;  // the same turns in that thread's CPU time
  CodecSpeed all_cores;     // wall time, every worker of the pool with jobs of its own
  // CPU time of all workers over the wall time of as many, by turn on all cores: 1 where each had its core.
  std::vector<double> core_share;
};

class CodecRace {
 public:
  // `slice_s`: aim of one turn on one core.
  CodecRace(CodecArena& arena, base::ThreadPool& pool, double slice_s);

  // Codes and decodes everything once, on all cores: the arena's outputs are this contestant's afterwards.
  // Also learns how fast it is.
  base::Status WarmUp(Contestant& contestant);

  // One round: each contestant's turn, in order. All have been warmed up; results[i] grows by one entry.
  // `all_cores`: measure them too.
  base::Status Round(std::span<const std::unique_ptr<Contestant>> contestants, bool all_cores,
                     std::span<RaceResult> results);

 private:
  struct Turn {
    size_t first = 0;
    size_t jobs = 0;
    double bytes = 0;
  };
  Turn TurnOf(const Contestant& contestant) const;
  base::Status RunJobs(const Turn& turn, Contestant& contestant, bool decode, base::ThreadPool* pool);
  base::Status TimeTurn(const Turn& turn, Contestant& contestant, bool all_cores, RaceResult& result);

  CodecArena& arena_;
  base::ThreadPool& pool_;
  double slice_s_;
  uint32_t round_ = 0;
  std::vector<std::pair<const Contestant*, double>> seconds_per_byte_;  // on one core, of the slower way
};

}  // namespace kvplane::cli

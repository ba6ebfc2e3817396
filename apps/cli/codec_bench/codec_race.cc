#include "apps/cli/codec_bench/codec_race.h"

#include <algorithm>
#include <atomic>
#include <ctime>

#include "kvplane/base/check.h"
#include "kvplane/base/clock.h"
#include "kvplane/base/mutex.h"

namespace kvplane::cli {
namespace {

// CPU time of all threads of this process.
double ProcessCpuSeconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

// The first error of several threads.
class FirstError {
 public:
  void Note(base::Status status) {
    if (status.ok()) return;
    const base::MutexLock lock(mutex_);
    if (status_.ok()) status_ = std::move(status);
  }
  base::Status Take() {
    const base::MutexLock lock(mutex_);
    return status_;
  }

 private:
  base::Mutex mutex_;
  base::Status status_ KVPLANE_GUARDED_BY(mutex_);
};

}  // namespace

CodecRace::CodecRace(CodecArena& arena, base::ThreadPool& pool, double slice_s)
    : arena_(arena), pool_(pool), slice_s_(slice_s) {}

base::Status CodecRace::RunJobs(const Turn& turn, Contestant& contestant, bool decode,
                                base::ThreadPool* pool) {
  const size_t all = arena_.jobs().size();
  const auto run = [&](size_t i, size_t worker) {
    const size_t job = (turn.first + i) % all;
    return decode ? contestant.Decode(job, worker) : contestant.Encode(job, worker);
  };
  if (pool == nullptr) {
    for (size_t i = 0; i < turn.jobs; ++i) KVPLANE_RETURN_IF_ERROR(run(i, 0));
    return base::Status::Ok();
  }
  FirstError error;
  pool->ParallelFor(turn.jobs, [&](size_t i, size_t worker) { error.Note(run(i, worker)); });
  return error.Take();
}

base::Status CodecRace::WarmUp(Contestant& contestant) {
  const Turn all = {0, arena_.jobs().size(), static_cast<double>(arena_.raw_bytes())};
  KVPLANE_RETURN_IF_ERROR(RunJobs(all, contestant, false, &pool_));
  KVPLANE_RETURN_IF_ERROR(RunJobs(all, contestant, true, &pool_));
  // A short turn on one core tells how long a turn may be.
  const size_t least = std::min<size_t>(all.jobs, 1 + kLeastTurnBytes / arena_.raw_bytes(arena_.jobs()[0]));
  double bytes = 0;
  for (size_t i = 0; i < least; ++i) bytes += static_cast<double>(arena_.raw_bytes(arena_.jobs()[i]));
  double slowest = 0;
  for (const bool decode : {false, true}) {
    const base::TimePoint start = base::Clock::System().Now();
    KVPLANE_RETURN_IF_ERROR(RunJobs({0, least, bytes}, contestant, decode, nullptr));
    slowest = std::max(slowest, base::ToSeconds(base::Clock::System().Now() - start));
  }
  seconds_per_byte_.emplace_back(&contestant, slowest / bytes);
  return base::Status::Ok();
}

CodecRace::Turn CodecRace::TurnOf(const Contestant& contestant) const {
  const auto known = std::find_if(seconds_per_byte_.begin(), seconds_per_byte_.end(),
                                  [&](const auto& entry) { return entry.first == &contestant; });
  KVPLANE_CHECK(known != seconds_per_byte_.end());
  const double wanted = std::max(slice_s_ / known->second, static_cast<double>(kLeastTurnBytes));
  const size_t all = arena_.jobs().size();
  Turn turn;
  const auto least = static_cast<size_t>(wanted / static_cast<double>(arena_.raw_bytes(arena_.jobs()[0])));
  const size_t stride = std::clamp<size_t>(least, 1, all);
  turn.first = round_ * stride % all;
  while (turn.jobs < all && turn.bytes < wanted) {
    turn.bytes += static_cast<double>(arena_.raw_bytes(arena_.jobs()[(turn.first + turn.jobs++) % all]));
  }
  return turn;
}

base::Status CodecRace::TimeTurn(const Turn& turn, Contestant& contestant, bool all_cores,
                                 RaceResult& result) {
  for (const bool decode : {false, true}) {
    if (decode && !contestant.two_way()) break;
    const base::TimePoint start = base::Clock::System().Now();
    const base::Duration cpu_start = base::ThreadCpuTime();
    const double all_cpu_start = ProcessCpuSeconds();
    KVPLANE_RETURN_IF_ERROR(RunJobs(turn, contestant, decode, all_cores ? &pool_ : nullptr));
    const double cpu_s = base::ToSeconds(base::ThreadCpuTime() - cpu_start);
    const double wall_s = base::ToSeconds(base::Clock::System().Now() - start);
    const double rate = turn.bytes / wall_s;
    CodecSpeed& wall = all_cores ? result.all_cores : result.one_core;
    (decode ? wall.decode : wall.encode).push_back(rate);
    if (all_cores) {
      const double all_cpu_s = ProcessCpuSeconds() - all_cpu_start;
      result.core_share.push_back(all_cpu_s / (wall_s * static_cast<double>(pool_.size())));
      continue;
    }
    (decode ? result.one_core_cpu.decode : result.one_core_cpu.encode).push_back(turn.bytes / cpu_s);
  }
  return base::Status::Ok();
}

base::Status CodecRace::Round(std::span<const std::unique_ptr<Contestant>> contestants, bool all_cores,
                              std::span<RaceResult> results) {
  KVPLANE_CHECK(contestants.size() == results.size());
  for (const bool every_core : {false, true}) {
    if (every_core && !all_cores) break;
    for (size_t i = 0; i < contestants.size(); ++i) {
      KVPLANE_RETURN_IF_ERROR(TimeTurn(TurnOf(*contestants[i]), *contestants[i], every_core, results[i]));
    }
  }
  ++round_;
  return base::Status::Ok();
}

}  // namespace kvplane::cli

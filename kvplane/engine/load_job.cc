#include "kvplane/engine/load_job.h"

#include <algorithm>
#include <utility>

#include "kvplane/base/check.h"

namespace kvplane::engine {

namespace {

base::TimePoint Now() { return base::Clock::System().Now(); }

}  // namespace

LoadJob::LoadJob(LoadJobOptions options) : options_(std::move(options)), created_(Now()) {
  KVPLANE_CHECK(!options_.runs.empty() && options_.layers > 0 && options_.head_runs <= options_.runs.size());
  base::MutexLock lock(mutex_);
  progress_.resize(options_.runs.size());
  for (RunProgress& run : progress_) run.landed.resize(options_.layers);
  pending_ = runs();
  since_ = created_;
}

void LoadJob::Tell(News news) const {
  if (news.progress) options_.on_progress();
  if (news.done) options_.on_done();
}

bool LoadJob::Idle() const { return pending_ == 0 && writers_ == 0; }

bool LoadJob::CheckDone() {
  if (done_ || !Idle()) return false;
  done_ = true;
  return true;
}

// ---- The engine's side

LoadJob::RunState LoadJob::state(uint32_t run) const {
  base::MutexLock lock(mutex_);
  return progress_[run].state;
}

bool LoadJob::Take(uint32_t run) {
  News news;
  {
    base::MutexLock lock(mutex_);
    RunProgress& progress = progress_[run];
    if (progress.writers > 0) return false;
    if (progress.state == RunState::kLanded) return false;
    if (progress.state == RunState::kPending) --pending_;
    if (progress.state == RunState::kFailed) --failed_;
    progress.state = RunState::kTaken;
    news.done = CheckDone();
    changed_.NotifyAll();
  }
  Tell(news);
  return true;
}

void LoadJob::LoadHead() {
  base::MutexLock lock(mutex_);
  loads_head_ = true;
}

bool LoadJob::TakeAll() {
  base::MutexLock lock(mutex_);
  for (RunProgress& progress : progress_) {
    if (progress.state != RunState::kPending) continue;
    progress.state = RunState::kTaken;
    --pending_;
  }
  changed_.NotifyAll();
  if (writers_ > 0) return false;
  done_ = true;
  return true;
}

uint32_t LoadJob::FailPending(LoadError error, std::string_view why) {
  uint32_t failed = 0;
  News news;
  {
    base::MutexLock lock(mutex_);
    const base::Status status = base::DeadlineExceeded("{}", why);
    for (uint32_t run = 0; run < runs(); ++run) failed += Fail(run, error, status) ? 1u : 0u;
    news.done = CheckDone();
  }
  Tell(news);
  return failed;
}

LoadJob::Progress LoadJob::progress() const {
  base::MutexLock lock(mutex_);
  Progress out{
      .pending = pending_, .created = created_, .started = started_, .reading = reads_ > 0, .since = since_};
  for (uint32_t run = 0; run < runs(); ++run) {
    const RunProgress& progress = progress_[run];
    if (progress.state != RunState::kPending && progress.state != RunState::kLanded) continue;
    out.bytes_done += progress.bytes_landed;
    const uint64_t all = options_.runs[run].entry.bytes;
    out.bytes_total += all;
    if (run < options_.head_runs && !loads_head_)
      out.head_bytes += all - std::min(all, progress.bytes_landed);
  }
  while (out.layers_ready < options_.layers && LayerReady(out.layers_ready)) ++out.layers_ready;
  return out;
}

bool LoadJob::complete() const {
  base::MutexLock lock(mutex_);
  return pending_ == 0 && failed_ == 0;
}

std::vector<uint64_t> LoadJob::missing_bytes() const {
  base::MutexLock lock(mutex_);
  std::vector<uint64_t> out(runs());
  for (uint32_t run = 0; run < runs(); ++run) {
    const RunProgress& progress = progress_[run];
    if (progress.state != RunState::kPending) continue;
    const uint64_t all = options_.runs[run].entry.bytes;
    out[run] = all - std::min(all, progress.bytes_landed);
  }
  return out;
}

bool LoadJob::LayerReady(uint32_t layer) const {
  if (failed_ > 0) return false;
  return std::all_of(progress_.begin(), progress_.end(), [layer](const RunProgress& progress) {
    return progress.state != RunState::kPending || progress.landed[layer];
  });
}

LoadJob::Wait LoadJob::WaitForLayer(uint32_t layer, base::TimePoint deadline) {
  base::MutexLock lock(mutex_);
  while (true) {
    if (failed_ > 0) return Wait::kFailed;
    if (LayerReady(layer)) return Wait::kReady;
    if (Now() >= deadline) return Wait::kTimeout;
    changed_.WaitUntil(mutex_, deadline);
  }
}

base::Status LoadJob::first_error() const {
  base::MutexLock lock(mutex_);
  return first_error_;
}

// ---- The loader's side

std::optional<LoadJob::Work> LoadJob::NextWork(Part part) {
  base::MutexLock lock(mutex_);
  if (phase_ == Phase::kNew && pending_ > 0 && part == Part::kTail) {
    phase_ = Phase::kOpening;
    BeginRead();
    started_ = since_;
    return Work{.open = true, .pieces = {}};
  }
  if (phase_ != Phase::kReading) return std::nullopt;
  const size_t end = part == Part::kTail && !loads_head_ ? tail_units_ : units_.size();
  while (next_unit_ < end) {
    Work work;
    for (const Piece& piece : units_[next_unit_++].pieces) {
      if (progress_[piece.run].state == RunState::kPending) work.pieces.push_back(piece);
    }
    if (work.pieces.empty()) continue;
    BeginRead();
    return work;
  }
  return std::nullopt;
}

void LoadJob::BeginRead() {
  if (reads_++ > 0) return;
  reading_since_ = since_ = Now();
}

void LoadJob::EndWork() {
  base::MutexLock lock(mutex_);
  KVPLANE_CHECK(reads_ > 0);
  if (--reads_ > 0) return;
  since_ = Now();
  read_time_ += since_ - reading_since_;
}

bool LoadJob::exhausted() const {
  base::MutexLock lock(mutex_);
  return pending_ == 0 || (phase_ == Phase::kReading && next_unit_ == units_.size());
}

void LoadJob::SetReaders(std::vector<std::shared_ptr<const codec::ObjectReader>> readers) {
  KVPLANE_CHECK(readers.size() == runs());
  base::MutexLock lock(mutex_);
  for (uint32_t run = 0; run < runs(); ++run) progress_[run].reader = std::move(readers[run]);
  CutUnits();
  phase_ = Phase::kReading;
  reading_since_ = since_ = Now();
  read_time_ = {};
}

void LoadJob::CutUnits() {
  if (options_.head_runs < runs()) CutTail();
  tail_units_ = units_.size();
  if (options_.head_runs > 0) CutHead();
}

// Layer 0 by itself, so that it comes soon; later layers in groups of about unit_bytes.
void LoadJob::CutTail() {
  uint64_t total = 0;
  for (uint32_t run = options_.head_runs; run < runs(); ++run) total += options_.runs[run].entry.bytes;
  const uint64_t layer_bytes = std::max<uint64_t>(total / options_.layers, 1);
  const auto group =
      static_cast<uint32_t>(std::clamp<uint64_t>(options_.unit_bytes / layer_bytes, 1, options_.layers));
  for (uint32_t layer = 0; layer < options_.layers;) {
    const uint32_t end = layer == 0 ? 1 : std::min(layer + group, options_.layers);
    Work work;
    uint64_t bytes = 0;
    for (uint32_t run = options_.head_runs; run < runs(); ++run) {
      work.pieces.push_back({run, layer, end});
      bytes += options_.runs[run].entry.bytes * (end - layer) / options_.layers;
      if (bytes < options_.unit_bytes && run + 1 < runs()) continue;
      units_.push_back(std::exchange(work, {}));
      bytes = 0;
    }
    layer = end;
  }
}

// One run after the other from the back; small ones share a round of reads.
void LoadJob::CutHead() {
  Work work;
  uint64_t bytes = 0;
  for (uint32_t run = options_.head_runs; run > 0; --run) {
    const uint64_t run_bytes = options_.runs[run - 1].entry.bytes;
    if (!work.pieces.empty() && bytes + run_bytes > options_.unit_bytes) {
      units_.push_back(std::exchange(work, {}));
      bytes = 0;
    }
    work.pieces.push_back({run - 1, 0, options_.layers});
    bytes += run_bytes;
  }
  units_.push_back(std::move(work));
}

std::shared_ptr<const codec::ObjectReader> LoadJob::ReaderOf(uint32_t run) const {
  base::MutexLock lock(mutex_);
  return progress_[run].state == RunState::kPending ? progress_[run].reader : nullptr;
}

bool LoadJob::BeginWrite(uint32_t run) {
  base::MutexLock lock(mutex_);
  if (progress_[run].state != RunState::kPending) return false;
  ++progress_[run].writers;
  ++writers_;
  return true;
}

void LoadJob::EndWrite(uint32_t run, uint32_t layer, uint64_t bytes) {
  News news;
  {
    base::MutexLock lock(mutex_);
    RunProgress& progress = progress_[run];
    --progress.writers;
    --writers_;
    if (progress.state == RunState::kPending) {
      KVPLANE_CHECK(!progress.landed[layer]);
      progress.landed[layer] = true;
      progress.bytes_landed += bytes;
      bytes_landed_ += bytes;
      since_ = Now();
      if (++progress.layers_landed == options_.layers) {
        progress.state = RunState::kLanded;
        --pending_;
        news.progress = true;
      }
      news.progress = news.progress || LayerReady(layer);
    } else {
      news.progress = true;  // a run that failed or is wanted has lost a writer
    }
    news.done = CheckDone();
    changed_.NotifyAll();
  }
  Tell(news);
}

void LoadJob::AbortWrite(uint32_t run, LoadError error, const base::Status& status) {
  News news{.progress = true};
  {
    base::MutexLock lock(mutex_);
    --progress_[run].writers;
    --writers_;
    Fail(run, error, status);
    news.done = CheckDone();
    changed_.NotifyAll();
  }
  Tell(news);
}

bool LoadJob::Fail(uint32_t run, LoadError error, const base::Status& status) {
  RunProgress& progress = progress_[run];
  if (progress.state != RunState::kPending) return false;
  progress.state = RunState::kFailed;
  --pending_;
  ++failed_;
  if (first_error_.ok()) first_error_ = status.Annotate(Name(error));
  changed_.NotifyAll();
  return true;
}

bool LoadJob::FailRun(uint32_t run, LoadError error, const base::Status& status) {
  News news{.progress = true};
  {
    base::MutexLock lock(mutex_);
    if (!Fail(run, error, status)) return false;
    news.done = CheckDone();
  }
  Tell(news);
  return true;
}

LoadJob::Pace LoadJob::pace() const {
  base::MutexLock lock(mutex_);
  const base::Duration now = reads_ > 0 ? since_ - reading_since_ : base::Duration{};
  return {base::ToSeconds(read_time_ + now), bytes_landed_};
}

}  // namespace kvplane::engine

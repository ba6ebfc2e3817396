#include "kvplane/engine/prefix_loader.h"

#include <algorithm>
#include <utility>

#include "kvplane/base/check.h"
#include "kvplane/base/log.h"

namespace kvplane::engine {

namespace {

// What is read of an object whose writer did not say how long its prefix is: enough for 80 layers.
constexpr uint64_t kGuessedPrefixBytes = 4096;

base::TimePoint Now() { return base::Clock::System().Now(); }

LoadError Classify(const base::Status& status) {
  switch (status.code()) {
    case base::StatusCode::kNotFound:
    case base::StatusCode::kInvalidArgument:  // a range beyond the end: another object than was looked up
      return LoadError::kMissing;
    case base::StatusCode::kDeadlineExceeded:
      return LoadError::kTimeout;
    case base::StatusCode::kUnavailable:
    case base::StatusCode::kCancelled:
      return LoadError::kUnavailable;
    case base::StatusCode::kCorrupt:
      return LoadError::kCorrupt;
    case base::StatusCode::kUnimplemented:
    case base::StatusCode::kFailedPrecondition:
      return LoadError::kUnreadable;
    default:
      return LoadError::kOther;
  }
}

bool CountsAgainst(const base::Status& status) {
  return status.code() == base::StatusCode::kUnavailable ||
         status.code() == base::StatusCode::kDeadlineExceeded;
}

}  // namespace

void PrefixContext::Report(const base::Status& status) {
  if (CountsAgainst(status)) {
    breaker.Failed(Now());
  } else {
    breaker.Succeeded();
  }
}

PrefixLoader::PrefixLoader(PrefixContext& context)
    : context_(context),
      most_object_bytes_(context.shape.most_object_bytes()),
      most_prefix_bytes_(context.shape.most_prefix_bytes()) {
  threads_.emplace_back(&PrefixLoader::LookupThread, this);
  for (uint32_t i = 0; i < std::max(context.options.loader_threads, 1u); ++i) {
    threads_.emplace_back(&PrefixLoader::LoadThread, this);
  }
}

PrefixLoader::~PrefixLoader() {
  std::deque<PrefixLookup> lookups;
  std::deque<std::shared_ptr<LoadJob>> jobs;
  {
    base::MutexLock lock(mutex_);
    stopping_ = true;
    lookups.swap(lookups_);
    jobs.swap(jobs_);
    wake_.NotifyAll();
  }
  for (const PrefixLookup& lookup : lookups) lookup.on_done(base::Cancelled("the engine is shutting down"));
  for (const auto& job : jobs) job->FailPending(LoadError::kOther, "the engine is shutting down");
  for (std::thread& thread : threads_) thread.join();
}

// ---- Lookups

void PrefixLoader::Lookup(PrefixLookup lookup) {
  base::MutexLock lock(mutex_);
  lookups_.push_back(std::move(lookup));
  wake_.NotifyAll();
}

void PrefixLoader::LookupThread() {
  while (true) {
    PrefixLookup lookup;
    {
      base::MutexLock lock(mutex_);
      while (lookups_.empty() && !stopping_) wake_.Wait(mutex_);
      if (stopping_) return;
      lookup = std::move(lookups_.front());
      lookups_.pop_front();
    }
    Run(lookup);
  }
}

void PrefixLoader::Run(const PrefixLookup& lookup) {
  if (!lookup.claim->Begin()) return;
  const bool late = Now() >= lookup.deadline;  // no fault of the store: it was not asked
  base::Result<std::vector<StoredRun>> found =
      late ? base::DeadlineExceeded("the lookup waited too long for its turn") : Ask(lookup);
  if (lookup.claim->End()) {
    if (!late) context_.Report(found.status());
    if (!found.ok()) ++context_.counters.lookup_errors;
  }
  lookup.on_done(std::move(found));
}

base::Result<std::vector<StoredRun>> PrefixLoader::Ask(const PrefixLookup& lookup) {
  std::vector<store::StoreKey> keys = store::KeyChain(context_.keys, lookup.tokens);
  if (keys.size() > store::kMaxKeysPerCall) keys.resize(store::kMaxKeysPerCall);
  ++context_.counters.lookups;
  context_.counters.lookup_tokens += keys.size() * context_.shape.run_tokens;
  const auto found = context_.store.Lookup(keys, lookup.min_quality, lookup.deadline);
  if (!found.ok()) return found.status();
  std::vector<StoredRun> runs;
  for (size_t i = 0; i < std::min(found->size(), keys.size()); ++i) runs.push_back({keys[i], (*found)[i]});
  context_.counters.hit_tokens += runs.size() * context_.shape.run_tokens;
  return runs;
}

// ---- Loads

void PrefixLoader::Load(std::shared_ptr<LoadJob> job) {
  base::MutexLock lock(mutex_);
  jobs_.push_back(std::move(job));
  wake_.NotifyAll();
}

bool PrefixLoader::NextWork(std::shared_ptr<LoadJob>& job, LoadJob::Work& work) {
  base::MutexLock lock(mutex_);
  while (!stopping_) {
    for (const LoadJob::Part part : {LoadJob::Part::kTail, LoadJob::Part::kHead}) {
      for (auto at = jobs_.begin(); at != jobs_.end();) {
        if (auto next = (*at)->NextWork(part)) {
          job = *at;
          work = *std::move(next);
          return true;
        }
        at = (*at)->exhausted() ? jobs_.erase(at) : at + 1;
      }
    }
    wake_.Wait(mutex_);
  }
  return false;
}

void PrefixLoader::LoadThread() {
  codec::Workspace workspace;
  std::shared_ptr<LoadJob> job;
  LoadJob::Work work;
  while (NextWork(job, work)) {
    if (work.open) {
      Open(*job);
      base::MutexLock lock(mutex_);
      wake_.NotifyAll();  // there are pieces now, for the other threads too
    } else {
      Read(*job, work, workspace);
    }
    job->EndWork();
    job.reset();
  }
}

void PrefixLoader::Open(LoadJob& job) {
  std::vector<store::ReadRequest> requests;
  std::vector<uint32_t> asked;  // the run of each request
  store::TierKind slowest = store::TierKind::kDram;
  for (uint32_t run = 0; run < job.runs(); ++run) {
    const store::EntryInfo& entry = job.run(run).entry;
    // Memory is taken for what a store says: no more than an object of this shape can need.
    const uint64_t prefix = entry.prefix_bytes != 0 ? entry.prefix_bytes : kGuessedPrefixBytes;
    if (entry.bytes > most_object_bytes_ || entry.prefix_bytes > most_prefix_bytes_) {
      FailRun(job, run, LoadError::kMismatch,
              base::FailedPrecondition("an object of {} bytes with a prefix of {}: too large for a run",
                                       entry.bytes, entry.prefix_bytes));
      continue;
    }
    requests.push_back({.key = job.run(run).key, .offset = 0, .bytes = std::min(prefix, entry.bytes)});
    asked.push_back(run);
    slowest = std::max(slowest, entry.tier);
  }
  std::vector<std::shared_ptr<const codec::ObjectReader>> readers(job.runs());
  if (!requests.empty()) ReadPrefixes(job, requests, asked, slowest, readers);
  job.SetReaders(std::move(readers));
}

void PrefixLoader::ReadPrefixes(LoadJob& job, std::span<const store::ReadRequest> requests,
                                std::span<const uint32_t> asked, store::TierKind slowest,
                                std::span<std::shared_ptr<const codec::ObjectReader>> readers) {
  const base::TimePoint start = Now();
  const auto prefixes = context_.store.Read(requests, start + context_.options.timeout);
  const base::TimePoint end = Now();
  base::Status worst;
  for (size_t i = 0; i < asked.size(); ++i) {
    const uint32_t run = asked[i];
    if (i >= prefixes.size()) {
      FailRun(job, run, LoadError::kOther, base::Internal("the store gave no answer"));
    } else if (!prefixes[i].ok()) {
      const base::Status& status = prefixes[i].status();
      if (worst.ok() || CountsAgainst(status)) worst = status;
      FailRun(job, run, Classify(status), status);
    } else {
      readers[run] = OpenRun(job, run, *prefixes[i]);
    }
  }
  context_.Report(worst);
  if (worst.ok()) context_.estimates.AddLatency(slowest, base::ToSeconds(end - start), end);
}

// Null, and the run failed, when the object is not what it should be.
std::shared_ptr<const codec::ObjectReader> PrefixLoader::OpenRun(LoadJob& job, uint32_t run,
                                                                 const store::Slice& prefix) {
  const StoredRun& stored = job.run(run);
  auto reader = codec::ObjectReader::Open(
      prefix.bytes(), {.accept_lossy = job.options().accept_lossy, .profiles = &context_.profiles});
  if (!reader.ok()) {
    FailRun(job, run, Classify(reader.status()), reader.status());
    return nullptr;
  }
  if (const base::Status match = CheckRun(reader->info(), context_.shape, stored.key, run); !match.ok()) {
    FailRun(job, run, LoadError::kMismatch, match);
    return nullptr;
  }
  if (reader->object_bytes() != stored.entry.bytes) {
    FailRun(job, run, LoadError::kMissing,
            base::NotFound("the object has {} bytes, the lookup said {}", reader->object_bytes(),
                           stored.entry.bytes));
    return nullptr;
  }
  const codec::ProfileId profile{reader->info().identity.profile};
  if (reader->info().strategy.needs_profile() && context_.profiles.Find(profile) == nullptr) {
    FailRun(job, run, LoadError::kUnreadable,
            base::FailedPrecondition("coded with the profile {}, which is not loaded", profile.ToHex()));
    return nullptr;
  }
  return std::make_shared<const codec::ObjectReader>(*std::move(reader));
}

void PrefixLoader::Read(LoadJob& job, const LoadJob::Work& work, codec::Workspace& workspace) {
  std::vector<store::ReadRequest> requests;
  std::vector<LoadJob::Piece> pieces;
  std::vector<std::shared_ptr<const codec::ObjectReader>> readers;
  for (const LoadJob::Piece& piece : work.pieces) {
    auto reader = job.ReaderOf(piece.run);
    if (reader == nullptr) continue;
    const auto first = reader->layer_range(piece.layer_begin);
    const auto last = reader->layer_range(piece.layer_end - 1);
    requests.push_back({.key = job.run(piece.run).key,
                        .offset = first.offset,
                        .bytes = last.offset + last.bytes - first.offset});
    pieces.push_back(piece);
    readers.push_back(std::move(reader));
  }
  if (requests.empty()) return;
  const auto ranges = context_.store.Read(requests, Now() + context_.options.timeout);
  base::Status worst;  // of one call that speaks of several runs
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (i >= ranges.size()) {
      FailRun(job, pieces[i].run, LoadError::kOther, base::Internal("the store gave no answer"));
    } else if (!ranges[i].ok()) {
      if (worst.ok() || CountsAgainst(ranges[i].status())) worst = ranges[i].status();
      FailRun(job, pieces[i].run, Classify(ranges[i].status()), ranges[i].status());
    } else if (ranges[i]->size() != requests[i].bytes) {
      FailRun(job, pieces[i].run, LoadError::kCorrupt,
              base::Corrupt("{} bytes of a range of {}", ranges[i]->size(), requests[i].bytes));
    } else {
      Decode(job, pieces[i], *readers[i], *ranges[i], workspace);
    }
  }
  context_.Report(worst);
}

void PrefixLoader::Decode(LoadJob& job, const LoadJob::Piece& piece, const codec::ObjectReader& reader,
                          const store::Slice& bytes, codec::Workspace& workspace) {
  const uint64_t base = reader.layer_range(piece.layer_begin).offset;
  for (uint32_t layer = piece.layer_begin; layer < piece.layer_end; ++layer) {
    const auto range = reader.layer_range(layer);
    if (!job.BeginWrite(piece.run)) return;
    const base::TimePoint start = Now();
    const base::Status status =
        DecodeRunLayer(reader, layer, bytes.bytes().subspan(range.offset - base, range.bytes), piece.run,
                       job.pages(), workspace);
    if (!status.ok()) {
      // First let go of the run: a quarantine may wait for the store, and whoever waits for these pages must
      // not wait with it.
      job.AbortWrite(piece.run, Classify(status), status);
      Count(job, piece.run, Classify(status));
      return;
    }
    context_.estimates.AddDecode(static_cast<double>(context_.shape.run_tokens) / job.options().layers,
                                 base::ToSeconds(Now() - start));
    context_.counters.loaded_bytes += range.bytes;
    job.EndWrite(piece.run, layer, range.bytes);
  }
}

void PrefixLoader::FailRun(LoadJob& job, uint32_t run, LoadError error, const base::Status& status) {
  if (job.FailRun(run, error, status)) Count(job, run, error);
}

// Whether the store has another object under the run's key than the lookup found: a better one that was put
// meanwhile. A prefix of the one and tiles of the other do not verify, though neither is damaged.
bool PrefixLoader::Replaced(const StoredRun& run) {
  const auto now = context_.store.Lookup(std::span(&run.key, 1), 0, Now() + context_.options.timeout);
  if (!now.ok() || now->empty()) return false;
  const store::EntryInfo& entry = now->front();
  return entry.bytes != run.entry.bytes || entry.prefix_bytes != run.entry.prefix_bytes ||
         entry.quality != run.entry.quality;
}

void PrefixLoader::Count(const LoadJob& job, uint32_t run, LoadError error) {
  const bool damaged = error == LoadError::kCorrupt || error == LoadError::kMismatch;
  const bool replaced = damaged && Replaced(job.run(run));
  ++context_.counters.run_errors[static_cast<size_t>(replaced ? LoadError::kMissing : error)];
  if (!damaged || replaced) return;
  context_.store.Quarantine(job.run(run).key);
  base::Log(base::LogLevel::kWarn, "a stored run does not verify ({}) and is dropped from {}", Name(error),
            context_.store.name());
}

}  // namespace kvplane::engine

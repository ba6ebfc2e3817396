#include "kvplane/engine/prefix_pusher.h"

#include <algorithm>
#include <utility>

#include "kvplane/base/check.h"
#include "kvplane/base/log.h"

namespace kvplane::engine {

namespace {

base::TimePoint Now() { return base::Clock::System().Now(); }

}  // namespace

PrefixPusher::PrefixPusher(PrefixContext& context, RunCoding coding)
    : context_(context),
      coding_(std::move(coding)),
      coder_(&PrefixPusher::CodeThread, this),
      putter_(&PrefixPusher::PutThread, this) {}

PrefixPusher::~PrefixPusher() {
  {
    base::MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  coder_.join();
  putter_.join();
}

bool PrefixPusher::Push(std::shared_ptr<PushJob> job) {
  KVPLANE_CHECK(job->first_run < job->end_run);
  const uint64_t runs = job->end_run - job->first_run;
  // A node that looks nothing up has only its pushes to find out that the store is back.
  if (!context_.breaker.WouldAllow(Now())) {
    Drop(PushDrop::kSuspended, runs);
    return false;
  }
  base::MutexLock lock(mutex_);
  if (stopping_ || queued_runs_ + runs > context_.options.push_runs) {
    Drop(PushDrop::kQueue, runs);
    return false;
  }
  queued_runs_ += runs;
  jobs_.push_back(std::move(job));
  changed_.NotifyAll();
  return true;
}

bool PrefixPusher::WaitUntilIdle(base::TimePoint deadline) {
  base::MutexLock lock(mutex_);
  while (!jobs_.empty() || coding_now_ || !coded_.empty() || putting_now_) {
    if (Now() >= deadline) return false;
    changed_.WaitUntil(mutex_, deadline);
  }
  return true;
}

// ---- Coding

void PrefixPusher::CodeThread() {
  codec::Workspace workspace;
  while (true) {
    std::shared_ptr<PushJob> job;
    bool stopping = false;
    {
      base::MutexLock lock(mutex_);
      coding_now_ = false;
      changed_.NotifyAll();
      while (jobs_.empty() && !stopping_) changed_.Wait(mutex_);
      stopping = stopping_;
      if (jobs_.empty()) {
        all_coded_ = true;
        changed_.NotifyAll();
        return;
      }
      coding_now_ = true;
      job = std::move(jobs_.front());
      jobs_.pop_front();
      queued_runs_ -= job->end_run - job->first_run;
    }
    if (stopping) job->cancelled = true;
    Code(*job, workspace);
    job->on_done();
  }
}

void PrefixPusher::Code(PushJob& job, codec::Workspace& workspace) {
  const std::vector<store::StoreKey> keys = store::KeyChain(context_.keys, job.tokens);
  KVPLANE_CHECK(keys.size() >= job.end_run);
  const uint32_t first = job.look_first ? FirstMissing(job, keys) : job.first_run;
  for (uint32_t run = first; run < job.end_run; ++run) {
    if (job.cancelled) {
      Drop(PushDrop::kMemory, job.end_run - run);
      return;
    }
    if (job.loaded.contains(run)) continue;
    CodeRun(job, keys[run], run, workspace);
  }
}

uint16_t PrefixPusher::QualityOf(const PushJob& job) const {
  const uint16_t coding = coding_.strategy.lossy() ? context_.options.quality : store::kLossless;
  return std::min(coding, job.quality);
}

uint32_t PrefixPusher::FirstMissing(const PushJob& job, std::span<const store::StoreKey> keys) {
  const auto wanted = keys.first(std::min<size_t>(job.end_run, store::kMaxKeysPerCall));
  const auto found = context_.store.Lookup(wanted, QualityOf(job), Now() + context_.options.timeout);
  context_.Report(found.status());
  return found.ok() ? std::max(job.first_run, static_cast<uint32_t>(found->size())) : job.first_run;
}

bool PrefixPusher::Claim(const store::StoreKey& key, uint64_t bytes, PushDrop& why) {
  base::MutexLock lock(mutex_);
  if (coded_bytes_ > 0 && coded_bytes_ + bytes > context_.options.push_bytes) {  // one may always go
    why = PushDrop::kBacklog;
    return false;
  }
  if (!in_flight_.insert(key).second) return false;
  coded_bytes_ += bytes;
  return true;
}

void PrefixPusher::Release(const store::StoreKey& key, uint64_t bytes) {
  base::MutexLock lock(mutex_);
  in_flight_.erase(key);
  coded_bytes_ -= bytes;
}

void PrefixPusher::CodeRun(PushJob& job, const store::StoreKey& key, uint32_t run,
                           codec::Workspace& workspace) {
  const uint64_t raw = context_.shape.raw_bytes();
  PushDrop why = PushDrop::kCodec;
  if (!Claim(key, raw, why)) {
    if (why == PushDrop::kBacklog) Drop(why);
    return;
  }
  auto object = EncodeRun(context_.shape, coding_, key, run, *job.pages, workspace);
  const auto prefix = object.ok() ? codec::ObjectReader::PrefixBytes(*object) : object.status();
  if (!prefix.ok()) {
    base::Log(base::LogLevel::kWarn, "coding a run for the store: {}", prefix.status().ToString());
    Drop(PushDrop::kCodec);
    Release(key, raw);
    return;
  }
  const store::EntryMeta meta{
      .prefix_bytes = static_cast<uint32_t>(*prefix), .quality = QualityOf(job), .ttl = {}};
  base::MutexLock lock(mutex_);
  coded_bytes_ = coded_bytes_ - raw + object->size();
  coded_.push_back({key, meta, store::Slice::Own(*std::move(object))});
  changed_.NotifyAll();
}

// ---- Putting

void PrefixPusher::PutThread() {
  base::TimePoint give_up = base::kNoDeadline;
  while (true) {
    Coded coded;
    {
      base::MutexLock lock(mutex_);
      putting_now_ = false;
      changed_.NotifyAll();
      while (coded_.empty() && !all_coded_) changed_.Wait(mutex_);
      if (coded_.empty()) return;
      if (stopping_ && give_up == base::kNoDeadline) give_up = Now() + kFlushTime;
      coded = std::move(coded_.front());
      coded_.pop_front();
      putting_now_ = true;
    }
    const uint64_t bytes = coded.object.size();
    const base::TimePoint now = Now();
    if (now >= give_up) {
      Drop(PushDrop::kStore);
    } else if (!context_.breaker.Allow(now)) {
      Drop(PushDrop::kSuspended);
    } else {
      const base::Status status = context_.store.Put(coded.key, coded.meta, std::move(coded.object), {},
                                                     std::min(now + kPutTimeout, give_up));
      context_.Report(status);
      if (status.ok()) {
        ++context_.counters.pushed_runs;
        context_.counters.pushed_bytes += bytes;
      } else {
        Drop(PushDrop::kStore);
        base::Log(base::LogLevel::kDebug, "pushing a run: {}", status.ToString());
      }
    }
    Release(coded.key, bytes);
  }
}

}  // namespace kvplane::engine

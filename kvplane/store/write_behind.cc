#include "kvplane/store/write_behind.h"

#include <fmt/core.h>

#include <algorithm>
#include <list>
#include <memory>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>

#include "kvplane/base/mutex.h"

namespace kvplane::store {
namespace {

// While a breaker is open the thread looks this often whether it may try again: the breaker's clock may be
// one that a condition variable cannot wait for.
constexpr base::Duration kBreakerPoll = std::chrono::milliseconds(50);
constexpr base::TimePoint kNever = base::TimePoint::max();

base::Status ShutDown() { return base::Cancelled("the store was shut down"); }

// Told when a durable write is done.
struct Ticket {
  bool done = false;
  base::Status status;
};

struct Queued {
  WriteBehind::Job job;
  uint64_t order = 0;  // of its arrival
  base::TimePoint expires = kNever;
  std::shared_ptr<Ticket> ticket;  // null: nobody waits
};

// The write that the thread is at.
struct InFlight {
  StoreKey key{};
  uint64_t order = 0;
  uint16_t quality = 0;
  bool dropped = false;  // meanwhile: what was written must go again
};

// How a write ended.
struct Written {
  base::Status status;
  bool sent = false;  // the object went to the tier
};

class ThreadedWriteBehind final : public WriteBehind {
 public:
  ThreadedWriteBehind(Store& tier, TierBreakers& breakers, base::Clock& clock,
                      const WriteBehindOptions& options)
      : tier_(tier), breakers_(breakers), clock_(clock), options_(options), thread_([this] { Run(); }) {}
  ~ThreadedWriteBehind() override {
    Shutdown();
    thread_.join();
  }

  void Enqueue(Job job) override;
  base::Status WriteDurable(Job job, base::TimePoint deadline) override;
  void Drop(const StoreKey& key) override;
  void DropTenant(uint64_t tenant) override;
  size_t DropWorse(std::span<const StoreKey> keys, uint16_t min_quality) override;
  base::Status AwaitKey(const StoreKey& key, base::TimePoint deadline) override;
  base::Status AwaitTenant(uint64_t tenant, base::TimePoint deadline) override;
  base::Status Drain(base::TimePoint deadline) override;
  WriteBehindStats stats() const override;
  void Shutdown() override;

 private:
  using Queue = std::list<Queued>;

  Queued Wrap(Job job, std::shared_ptr<Ticket> ticket) const;
  // False: the queue has no room for it, even without all that nobody waits for.
  bool MakeRoom(uint64_t bytes) KVPLANE_REQUIRES(mutex_);
  Queued Unlink(Queue& queue, Queue::iterator at) KVPLANE_REQUIRES(mutex_);
  bool DropWorseOne(const StoreKey& key, uint16_t min_quality) KVPLANE_REQUIRES(mutex_);
  bool Writes(const StoreKey& key) const KVPLANE_REQUIRES(mutex_) {
    return in_flight_.has_value() && in_flight_->key == key;
  }
  bool WritesOf(uint64_t tenant) const KVPLANE_REQUIRES(mutex_) {
    return in_flight_.has_value() && in_flight_->key.tenant == tenant;
  }
  void Link(Queue& queue, Queued queued) KVPLANE_REQUIRES(mutex_);
  void Run();
  // The next write; nothing when it is over.
  std::optional<Queued> Next();
  // Whether the breakers let the first of the queue through; requires that there is one. Takes the trial of
  // look-ups, which others may want as well. Only this thread writes: that of writes is taken by the put.
  bool MayWrite() KVPLANE_REQUIRES(mutex_);
  Written Write(const Queued& queued);
  void Judge(CircuitBreaker& breaker, const base::Status& status);
  void EraseIfDropped(const StoreKey& key);
  void Finish(const Queued& queued, const Written& written);
  // A write that nobody waits for came to nothing: the next Drain() says so.
  void Lose(const Job& job, const base::Status& why) KVPLANE_REQUIRES(mutex_);
  bool HoldsUntil(uint64_t order) const KVPLANE_REQUIRES(mutex_);

  Store& tier_;
  TierBreakers& breakers_;
  base::Clock& clock_;
  const WriteBehindOptions options_;

  mutable base::Mutex mutex_;
  base::CondVar changed_;
  bool shut_down_ KVPLANE_GUARDED_BY(mutex_) = false;
  uint64_t arrivals_ KVPLANE_GUARDED_BY(mutex_) = 0;
  uint64_t lost_ KVPLANE_GUARDED_BY(mutex_) = 0;        // since the last Drain()
  base::Status first_loss_ KVPLANE_GUARDED_BY(mutex_);  // since the last Drain()
  Queue durable_ KVPLANE_GUARDED_BY(mutex_);            // somebody waits; oldest in front
  Queue relaxed_ KVPLANE_GUARDED_BY(mutex_);
  std::unordered_map<StoreKey, Queue::iterator, StoreKeyHash> relaxed_index_ KVPLANE_GUARDED_BY(mutex_);
  std::optional<InFlight> in_flight_ KVPLANE_GUARDED_BY(mutex_);
  WriteBehindStats stats_ KVPLANE_GUARDED_BY(mutex_);
  std::thread thread_;  // last: it uses everything above
};

Queued ThreadedWriteBehind::Wrap(Job job, std::shared_ptr<Ticket> ticket) const {
  const base::TimePoint expires =
      job.meta.ttl > base::Duration::zero() ? clock_.Now() + job.meta.ttl : kNever;
  return {.job = std::move(job), .expires = expires, .ticket = std::move(ticket)};
}

void ThreadedWriteBehind::Link(Queue& queue, Queued queued) {
  stats_.queued_bytes += queued.job.object.size();
  ++stats_.queued_entries;
  queued.order = ++arrivals_;
  queue.push_back(std::move(queued));
  if (&queue == &relaxed_) relaxed_index_[queue.back().job.key] = std::prev(queue.end());
}

Queued ThreadedWriteBehind::Unlink(Queue& queue, Queue::iterator at) {
  if (&queue == &relaxed_) relaxed_index_.erase(at->job.key);
  Queued out = std::move(*at);
  queue.erase(at);
  stats_.queued_bytes -= out.job.object.size();
  --stats_.queued_entries;
  return out;
}

bool ThreadedWriteBehind::MakeRoom(uint64_t bytes) {
  if (bytes > options_.max_bytes) return false;  // others need not go for it
  while (stats_.queued_bytes + bytes > options_.max_bytes || stats_.queued_entries >= options_.max_entries) {
    if (relaxed_.empty()) return false;
    Lose(Unlink(relaxed_, relaxed_.begin()).job, base::ResourceExhausted("the write queue was full"));
    ++stats_.dropped;
  }
  return true;
}

void ThreadedWriteBehind::Enqueue(Job job) {
  base::MutexLock lock(mutex_);
  if (shut_down_) return;
  if (const auto same = relaxed_index_.find(job.key); same != relaxed_index_.end()) {
    // One that has run out of time is nothing that the tier would get.
    const bool alive = same->second->expires > clock_.Now();
    if (alive && same->second->job.meta.quality >= job.meta.quality) return;
    Unlink(relaxed_, same->second);
  }
  if (!MakeRoom(job.object.size())) {
    ++stats_.dropped;
    Lose(job, base::ResourceExhausted("the write queue has no room for its {} bytes", job.object.size()));
    return;
  }
  Link(relaxed_, Wrap(std::move(job), nullptr));
  changed_.NotifyAll();
}

base::Status ThreadedWriteBehind::WriteDurable(Job job, base::TimePoint deadline) {
  const auto ticket = std::make_shared<Ticket>();
  base::MutexLock lock(mutex_);
  if (shut_down_) return ShutDown();
  if (!MakeRoom(job.object.size())) {
    ++stats_.dropped;
    return base::ResourceExhausted("the write queue of {} is full of durable writes", tier_.name());
  }
  Link(durable_, Wrap(std::move(job), ticket));
  changed_.NotifyAll();
  while (!ticket->done) {
    if (!changed_.WaitUntil(mutex_, deadline) && !ticket->done) {
      return base::DeadlineExceeded("the write to {} is not done yet", tier_.name());
    }
  }
  return ticket->status;
}

void ThreadedWriteBehind::Drop(const StoreKey& key) {
  base::MutexLock lock(mutex_);
  if (Writes(key)) in_flight_->dropped = true;
  if (const auto at = relaxed_index_.find(key); at != relaxed_index_.end()) Unlink(relaxed_, at->second);
  for (auto at = durable_.begin(); at != durable_.end();) {
    const auto next = std::next(at);
    if (at->job.key == key) {
      const Queued out = Unlink(durable_, at);
      *out.ticket = {.done = true, .status = base::Cancelled("erased before it was written")};
    }
    at = next;
  }
  changed_.NotifyAll();
}

void ThreadedWriteBehind::DropTenant(uint64_t tenant) {
  base::MutexLock lock(mutex_);
  if (WritesOf(tenant)) in_flight_->dropped = true;
  for (Queue* const queue : {&relaxed_, &durable_}) {
    for (auto at = queue->begin(); at != queue->end();) {
      const auto next = std::next(at);
      if (at->job.key.tenant == tenant) {
        const Queued out = Unlink(*queue, at);
        if (out.ticket != nullptr) {
          *out.ticket = {.done = true, .status = base::Cancelled("erased before it was written")};
        }
      }
      at = next;
    }
  }
  changed_.NotifyAll();
}

bool ThreadedWriteBehind::DropWorseOne(const StoreKey& key, uint16_t min_quality) {
  const auto at = relaxed_index_.find(key);
  if (at != relaxed_index_.end() && at->second->job.meta.quality < min_quality) Unlink(relaxed_, at->second);
  if (Writes(key) && in_flight_->quality < min_quality) return false;
  return std::ranges::none_of(durable_, [&](const Queued& queued) {
    return queued.job.key == key && queued.job.meta.quality < min_quality;
  });
}

size_t ThreadedWriteBehind::DropWorse(std::span<const StoreKey> keys, uint16_t min_quality) {
  base::MutexLock lock(mutex_);
  size_t rid = 0;
  while (rid < keys.size() && DropWorseOne(keys[rid], min_quality)) ++rid;
  changed_.NotifyAll();
  return rid;
}

base::Status ThreadedWriteBehind::AwaitKey(const StoreKey& key, base::TimePoint deadline) {
  base::MutexLock lock(mutex_);
  while (Writes(key)) {
    if (!changed_.WaitUntil(mutex_, deadline) && Writes(key)) {
      return base::DeadlineExceeded("{} is still writing the entry", tier_.name());
    }
  }
  return base::Status::Ok();
}

base::Status ThreadedWriteBehind::AwaitTenant(uint64_t tenant, base::TimePoint deadline) {
  base::MutexLock lock(mutex_);
  while (WritesOf(tenant)) {
    const StoreKey seen = in_flight_->key;
    if (!changed_.WaitUntil(mutex_, deadline) && Writes(seen)) {
      return base::DeadlineExceeded("{} is still writing an entry of the tenant", tier_.name());
    }
  }
  return base::Status::Ok();
}

base::Status ThreadedWriteBehind::Drain(base::TimePoint deadline) {
  base::MutexLock lock(mutex_);
  const uint64_t last = arrivals_;
  while (HoldsUntil(last)) {
    if (shut_down_) return ShutDown();
    if (!changed_.WaitUntil(mutex_, deadline) && HoldsUntil(last)) {
      return base::DeadlineExceeded("{} writes to {} are still queued", stats_.queued_entries, tier_.name());
    }
  }
  const uint64_t lost = std::exchange(lost_, 0);
  return lost == 0
             ? base::Status::Ok()
             : std::exchange(first_loss_, {}).Annotate(fmt::format("{} writes were lost, the first", lost));
}

bool ThreadedWriteBehind::HoldsUntil(uint64_t order) const {
  return (in_flight_.has_value() && in_flight_->order <= order) ||
         (!durable_.empty() && durable_.front().order <= order) ||
         (!relaxed_.empty() && relaxed_.front().order <= order);
}

void ThreadedWriteBehind::Lose(const Job& job, const base::Status& why) {
  if (lost_++ == 0) first_loss_ = why.Annotate(fmt::format("{} bytes", job.object.size()));
}

WriteBehindStats ThreadedWriteBehind::stats() const {
  base::MutexLock lock(mutex_);
  return stats_;
}

void ThreadedWriteBehind::Shutdown() {
  base::MutexLock lock(mutex_);
  shut_down_ = true;
  for (const Queued& queued : durable_) *queued.ticket = {.done = true, .status = ShutDown()};
  stats_.queued_entries = stats_.queued_bytes = 0;
  durable_.clear();
  relaxed_index_.clear();
  relaxed_.clear();
  changed_.NotifyAll();
}

std::optional<Queued> ThreadedWriteBehind::Next() {
  base::MutexLock lock(mutex_);
  for (;;) {
    if (shut_down_) return std::nullopt;
    if (durable_.empty() && relaxed_.empty()) {
      changed_.Wait(mutex_);
    } else if (!MayWrite()) {
      changed_.WaitUntil(mutex_, base::Clock::System().Now() + kBreakerPoll);
    } else {
      Queue& queue = durable_.empty() ? relaxed_ : durable_;
      Queued next = Unlink(queue, queue.begin());
      stats_.queued_bytes += next.job.object.size();  // still held until written
      ++stats_.queued_entries;
      in_flight_ = {.key = next.job.key, .order = next.order, .quality = next.job.meta.quality};
      return next;
    }
  }
}

bool ThreadedWriteBehind::MayWrite() {
  const base::TimePoint now = clock_.Now();
  return breakers_.writes.WouldAllow(now) && (!durable_.empty() || breakers_.reads.Allow(now));
}

void ThreadedWriteBehind::Judge(CircuitBreaker& breaker, const base::Status& status) {
  if (IsTierFailure(status.code())) {
    breaker.Failed(clock_.Now());
  } else {
    breaker.Succeeded();
  }
}

Written ThreadedWriteBehind::Write(const Queued& queued) {
  EntryMeta meta = queued.job.meta;
  if (queued.expires != kNever) {
    meta.ttl = queued.expires - clock_.Now();
    if (meta.ttl <= base::Duration::zero()) return {};
  }
  const base::TimePoint deadline = base::Clock::System().Now() + options_.budget;
  const bool durable = queued.ticket != nullptr;
  if (!durable) {
    const auto found = tier_.Lookup(std::span(&queued.job.key, 1), meta.quality, deadline);
    Judge(breakers_.reads, found.status());
    if (!found.ok()) return {.status = found.status()};
    if (!found->empty()) return {};
  }
  (void)breakers_.writes.Allow(clock_.Now());  // true, as it was in MayWrite()
  base::Status put = tier_.Put(queued.job.key, meta, queued.job.object, {.durable = durable}, deadline);
  Judge(breakers_.writes, put);
  return {.status = std::move(put), .sent = true};
}

// Who dropped it may be gone: Quarantine() does not wait for ever. Also after a write that failed, which may
// have reached the medium all the same.
void ThreadedWriteBehind::EraseIfDropped(const StoreKey& key) {
  {
    base::MutexLock lock(mutex_);
    if (!in_flight_->dropped) return;
  }
  (void)tier_.Erase(key, base::Clock::System().Now() + options_.budget);
}

void ThreadedWriteBehind::Finish(const Queued& queued, const Written& written) {
  const base::Status& status = written.status;
  base::MutexLock lock(mutex_);
  const bool dropped = in_flight_->dropped;
  in_flight_.reset();
  if (!shut_down_) {
    stats_.queued_bytes -= queued.job.object.size();
    --stats_.queued_entries;
  }
  if (queued.ticket != nullptr) {
    *queued.ticket = {.done = true, .status = status};
  } else if (!status.ok() && !dropped) {
    Lose(queued.job, status);
  }
  ++(!status.ok() ? stats_.failed : written.sent ? stats_.written : stats_.already_there);
  changed_.NotifyAll();
}

void ThreadedWriteBehind::Run() {
  while (const std::optional<Queued> queued = Next()) {
    const Written written = Write(*queued);
    EraseIfDropped(queued->job.key);
    Finish(*queued, written);
  }
}

}  // namespace

bool IsTierFailure(base::StatusCode code) {
  switch (code) {
    case base::StatusCode::kUnavailable:
    case base::StatusCode::kDeadlineExceeded:
    case base::StatusCode::kInternal:
    case base::StatusCode::kPermissionDenied:
      return true;
    default:
      return false;
  }
}

std::unique_ptr<WriteBehind> WriteBehind::Create(Store& tier, TierBreakers& breakers, base::Clock& clock,
                                                 const WriteBehindOptions& options) {
  return std::make_unique<ThreadedWriteBehind>(tier, breakers, clock, options);
}

}  // namespace kvplane::store

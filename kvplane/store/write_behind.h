// WriteBehind: the queue and the thread that carry objects to one slower tier, so that no request waits for
// it. The queue is bounded in bytes and entries; when it is full the oldest write that nobody waits for is
// dropped and counted (the store is a cache: a dropped write is a miss later on).
//
// Objects that the tier has in the same or a better quality are not sent again: it is asked before. How that
// look-up ends counts for the tier's breaker of look-ups and reads, so that a tier that is gone is found out,
// and tried again, here rather than at the cost of a reader. How the put ends counts for the breaker of
// writes alone. While either is open the queue waits; writes that somebody waits for are not looked up, and
// wait for that of writes alone.
//
// Thread safety: all members may be called from any thread. The tier must outlive it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/store/circuit_breaker.h"
#include "kvplane/store/store.h"

namespace kvplane::store {

struct WriteBehindOptions {
  uint64_t max_bytes = 512ull << 20;
  uint64_t max_entries = 16'384;
  base::Duration budget = std::chrono::seconds(10);  // of one write
};

struct WriteBehindStats {
  uint64_t queued_entries = 0, queued_bytes = 0;  // now, the one being written included
  uint64_t written = 0;
  uint64_t already_there = 0;  // not sent: the tier had them
  uint64_t dropped = 0;        // pushed out of the full queue
  uint64_t failed = 0;         // refused by the tier, or it was not there
};

class WriteBehind {
 public:
  struct Job {
    StoreKey key{};
    EntryMeta meta{};
    Slice object;
  };

  static std::unique_ptr<WriteBehind> Create(Store& tier, TierBreakers& breakers, base::Clock& clock,
                                             const WriteBehindOptions& options);
  virtual ~WriteBehind() = default;  // ends the thread; what is queued is lost

  // Never blocks. A queued write of the same key gives way to a better one.
  virtual void Enqueue(Job job) = 0;
  // Writes with PutOptions::durable, ahead of what nobody waits for; returns when it is done. When the
  // deadline passes first the write stays queued.
  virtual base::Status WriteDurable(Job job, base::TimePoint deadline) = 0;

  // Takes queued writes out. What is being written at the moment goes on and is erased from the tier as soon
  // as it ends; Await...() waits for that.
  virtual void Drop(const StoreKey& key) = 0;
  virtual void DropTenant(uint64_t tenant) = 0;
  // Takes queued writes of a quality below `min_quality` out. Returns how many of `keys`, from the first on,
  // are rid of them: it ends at one that is being written, or that somebody waits for.
  virtual size_t DropWorse(std::span<const StoreKey> keys, uint16_t min_quality) = 0;
  virtual base::Status AwaitKey(const StoreKey& key, base::TimePoint deadline) = 0;
  virtual base::Status AwaitTenant(uint64_t tenant, base::TimePoint deadline) = 0;
  // Until what was enqueued before the call is written. Like fsync it tells once what was lost: an error when
  // a write that nobody waited for failed, or was pushed out of the queue, since the last Drain() that ended.
  virtual base::Status Drain(base::TimePoint deadline) = 0;

  virtual WriteBehindStats stats() const = 0;
  virtual void Shutdown() = 0;  // everybody who waits gets kCancelled
};

// Whether a call that ended so speaks against the tier: it was not there, too slow, or broken. A miss, a
// refusal or an illegal argument does not.
bool IsTierFailure(base::StatusCode code);

}  // namespace kvplane::store

// Store: keeps KV objects so that no prompt prefix is computed twice. The interface of every tier (DRAM,
// disk, another kvplane store, Redis Cluster) and of the TieredStore that stacks them.
//
// A store is a cache: any entry may be gone at any time, and every failure is a miss with a reason. It is
// never wrong: bytes that come back are the bytes that were put (objects carry checksums; the reader verifies
// them, and reports what does not verify with Quarantine()).
//
// Calls block until done or until `deadline` (of Clock::System()); none may wait longer. kDeadlineExceeded,
// kUnavailable (medium or peer gone), kCancelled (Shutdown), kNotFound (a miss), kCorrupt (bytes damaged on
// the medium; the entry is then gone), kResourceExhausted (quota, size, full), kInvalidArgument (our own
// caller's mistake).
//
// Thread safety: all members may be called from any thread. Shutdown() makes every call in progress return
// soon.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/store/entry.h"

namespace kvplane::store {

struct PutOptions {
  // Return only when the object survives a crash of the store's process (kill -9). Tiers without a medium
  // ignore it.
  bool durable = false;
};

struct StoreStats {
  uint64_t entries = 0, bytes = 0;          // held now, where the tier knows it
  uint64_t capacity_bytes = 0;              // 0: unbounded or unknown
  uint64_t lookups = 0, lookup_keys = 0;    // calls; keys asked for
  uint64_t hits = 0;                        // keys found (of good enough quality, in the unbroken prefix)
  uint64_t reads = 0, read_bytes = 0;       // ranges and bytes delivered
  uint64_t misses = 0;                      // reads answered kNotFound
  uint64_t puts = 0, put_bytes = 0;         // taken
  uint64_t puts_refused = 0;                // quota, size, full queue
  uint64_t evictions = 0, expirations = 0;  // by policy; by TTL
  uint64_t corrupt = 0;                     // found damaged, quarantined
  uint64_t errors = 0;                      // medium or peer: timeouts, connections, I/O
};

class Store {
 public:
  virtual ~Store() = default;

  virtual TierKind kind() const = 0;
  // For logs and metrics: "dram", "disk /var/kv", "tcp://10.0.0.7:7100".
  virtual std::string name() const = 0;

  // Entries of the longest prefix of `keys` (a chain, at most kMaxKeysPerCall) that is present with at least
  // `min_quality`. An empty result is no error. Counts as a use of what was found, the tail first, so that
  // the head of a chain outlives its tail.
  virtual base::Result<std::vector<EntryInfo>> Lookup(std::span<const StoreKey> keys, uint16_t min_quality,
                                                      base::TimePoint deadline) = 0;

  // Ranged reads, pipelined where the medium is remote; one result per request, in order. A range beyond the
  // object's end is kInvalidArgument.
  virtual std::vector<base::Result<Slice>> Read(std::span<const ReadRequest> requests,
                                                base::TimePoint deadline) = 0;

  // Takes an object. One of the same key and at least the same quality stays as it is (the put counts as a
  // use of it); a worse one is replaced.
  virtual base::Status Put(const StoreKey& key, const EntryMeta& meta, Slice object,
                           const PutOptions& options, base::TimePoint deadline) = 0;

  // A use without a read: keeps the entries from ageing. Missing keys are ignored.
  virtual base::Status Touch(std::span<const StoreKey> keys, base::TimePoint deadline) = 0;

  // Keeps an entry from eviction (not from expiry or Erase) for at most `max_age`; zero unpins. A tier may
  // cap the age and the pinned share of its bytes. kNotFound; kUnimplemented where the medium cannot.
  virtual base::Status Pin(const StoreKey& key, base::Duration max_age, base::TimePoint deadline) = 0;

  virtual base::Status Erase(const StoreKey& key, base::TimePoint deadline) = 0;  // OK when it was not there
  // Everything a tenant owns; returns how many entries, where the tier can say it, else 0.
  virtual base::Result<uint64_t> EraseTenant(uint64_t tenant, base::TimePoint deadline) = 0;

  // A reader found bytes that do not verify: the entry goes, is counted as corrupt and never served again.
  virtual void Quarantine(const StoreKey& key) = 0;

  // Everything put before is durable where the tier has a medium.
  virtual base::Status Flush(base::TimePoint deadline) = 0;

  virtual StoreStats stats() const = 0;
  virtual void Shutdown() = 0;
};

}  // namespace kvplane::store

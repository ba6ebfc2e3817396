// DiskIndex: what the disk tier holds, in memory, so that lookups and misses touch no medium.
//
// Order of age is the order of writing: the medium drops its oldest files whole, and this index follows (or
// leads, when the byte budget is reached first). About 250 bytes per entry: 50 MB for 200,000 objects of 1
// MB.
//
// Thread safety: none; the disk tier holds its lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/store/entry.h"

namespace kvplane::store {

struct DiskEntry {
  uint64_t sequence = 0;         // the name of its chunks; grows with every put
  uint64_t bytes = 0;            // of the object
  uint64_t expires_unix_ms = 0;  // 0: never
  uint64_t written_at = 0;       // set by Insert(): bytes written to the tier before it
  uint32_t prefix_bytes = 0;
  uint32_t chunk_bytes = 0;
  uint16_t quality = 0;
  bool refreshing = false;  // it is being put again

  bool Expired(uint64_t now_unix_ms) const { return expires_unix_ms != 0 && now_unix_ms >= expires_unix_ms; }
  // Zero: it has no end. Requires: not Expired().
  base::Duration TtlLeft(uint64_t now_unix_ms) const {
    return expires_unix_ms == 0 ? base::Duration::zero()
                                : std::chrono::milliseconds(expires_unix_ms - now_unix_ms);
  }
};

class DiskIndex {
 public:
  // Null when it is not there. Valid until the next change.
  DiskEntry* Find(const StoreKey& key);
  // Replaces what has the same key. Requires: entry.sequence is above all before it.
  void Insert(const StoreKey& key, DiskEntry entry);
  bool Erase(const StoreKey& key);
  // Only if it is still the one of this sequence.
  bool Erase(const StoreKey& key, uint64_t sequence);

  // The oldest go until `budget_bytes` hold the rest; their keys are appended to `gone`.
  void EvictTo(uint64_t budget_bytes, std::vector<StoreKey>& gone);
  // All entries below `sequence` go.
  void EvictBelow(uint64_t sequence, std::vector<StoreKey>& gone);
  // Up to `limit` entries of a tenant go, so that the caller can let go of its lock in between.
  void EraseTenant(uint64_t tenant, size_t limit, std::vector<StoreKey>& gone);

  // The entry after `key` in the order of keys (the first one for nothing).
  std::optional<StoreKey> After(const std::optional<StoreKey>& key) const;

  // How many bytes were written to the tier since this entry was.
  uint64_t AgeBytes(const DiskEntry& entry) const { return written_bytes_ - entry.written_at; }

  size_t entries() const { return entries_.size(); }
  uint64_t bytes() const { return bytes_; }

 private:
  struct Aged {
    uint64_t sequence;
    StoreKey key;
  };
  void EvictOldest(std::vector<StoreKey>& gone);

  std::map<StoreKey, DiskEntry> entries_;  // ordered: a tenant is a range
  std::deque<Aged> by_age_;                // also what was erased or replaced since
  uint64_t bytes_ = 0;
  uint64_t written_bytes_ = 0;
};

}  // namespace kvplane::store

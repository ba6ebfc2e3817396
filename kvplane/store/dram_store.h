// DramStore: the tier in memory. A byte budget with S3-FIFO (or LRU) eviction, TTLs, pins, quotas per tenant.
//
// Nothing is copied: Put() keeps the Slice it is given (which should own no more memory than it shows) and
// Read() hands out Slices of it. Memory of an entry that left is free when its last reader lets go;
// detached_bytes() says how much waits for that, and is not part of the budget.
//
// An entry is charged its bytes and kEntryOverheadBytes. Look-ups, touches and repeated puts are uses; reads
// are not, since each follows a look-up and comes in as many ranges as there are layers. Deadlines do not
// matter: no call waits for more than the lock.
//
// Thread safety: as in store.h. One lock; memory is freed and `on_evict` is called outside of it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/store/eviction_policy.h"
#include "kvplane/store/store.h"

namespace kvplane::store {

// What an entry costs beside its bytes: index, queues, quota, its share of the ghosts. Keeps the number of
// tiny objects bounded.
constexpr uint64_t kEntryOverheadBytes = 512;

// An entry that the policy or a quota put out.
struct EvictedEntry {
  StoreKey key{};
  EntryMeta meta{};  // `ttl`: what was left of it
  Slice object;
  uint32_t uses = 0;  // after the put
};

struct DramOptions {
  uint64_t capacity_bytes = 1ull << 30;
  PolicyKind policy = PolicyKind::kS3Fifo;
  base::Duration default_ttl{};  // zero: for ever
  base::Duration max_pin_age = std::chrono::minutes(10);
  double pinned_share = 0.5;              // of the capacity, at most
  uint64_t tenant_quota_bytes = 0;        // zero: none; a tenant over its quota loses its own oldest entries
  std::map<uint64_t, uint64_t> quotas{};  // of single tenants, instead of the default
  base::Clock* clock = nullptr;           // of TTLs and pins; null: the system's
  // Called for every entry put out, from the thread whose call did it, without locks. Must not block.
  std::function<void(EvictedEntry)> on_evict{};
};

class DramStore : public Store {
 public:
  // kInvalidArgument: a share outside [0, 1], negative times, no capacity.
  static base::Result<std::unique_ptr<DramStore>> Create(const DramOptions& options);

  // Erases those of `keys` that are here in a quality below `min_quality`, and says how many. No use of the
  // others, and no look-up in the counters.
  virtual size_t EraseWorse(std::span<const StoreKey> keys, uint16_t min_quality) = 0;

  // Bytes that left the store and are still held by readers.
  virtual uint64_t detached_bytes() const = 0;
  virtual uint64_t pinned_bytes() const = 0;
};

}  // namespace kvplane::store

// TieredStore: a stack of stores, fastest first: memory, then any number of slower tiers (disk, another
// kvplane store, Redis). To its caller it is one Store.
//
// Look-ups give the longest prefix over all tiers; each tier is asked only for what the faster ones lack.
// With a least quality they also erase copies below it from tiers faster than the one that has it good
// enough, for a read gets the fastest; where such a copy cannot be erased the prefix ends. Reads go to the
// fastest tier that has the entry. A put is taken by memory at once (or refused) and written to the slower
// tiers behind the caller's back (write_behind.h); a durable put waits for the durable tiers. So a request
// never waits for a slow tier longer than that tier's small budgets, and not at all for one that fails: each
// failure is a miss and an error counter, several in a row leave the tier out for a while
// (circuit_breaker.h). A tier that fails only to take puts is still read.
//
// Movement between tiers: an object of a slower tier that was read whole and in order goes up to memory
// (promoter.h). An object that leaves memory after it was used is written down again if a slower tier no
// longer has it: what is hit late in life stays. Bytes move as they are, they are never coded again.
//
// Erase(), EraseTenant() and Quarantine() reach every tier and everything on its way between tiers; when
// they return OK nothing of it can come back; of a tier in Redis see docs/store.md, "What it cannot do". They
// fail when one tier cannot be reached (the others have erased by then).
//
// Touch() is a use in every tier: in memory at once, in the slower ones behind the caller's back
// (touch_behind.h). It never prolongs a time to live. Pin() keeps the entry in memory, which is the tier that
// can: what only a slower tier has is brought up for it, within the deadline. So a pinned entry is not
// evicted from the stack, whatever the slower tiers do; kResourceExhausted where memory has no room for
// it, kUnavailable where a tier that may have it cannot be asked.
//
// stats() counts what callers saw; entries, bytes and capacity are those of memory. tier_stats() has the
// rest.
//
// Thread safety: as in store.h. One writer thread per slower tier, one for promotion. Shutdown() drops what
// is queued: call Flush() first to keep it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/store/circuit_breaker.h"
#include "kvplane/store/dram_store.h"
#include "kvplane/store/promoter.h"
#include "kvplane/store/store.h"
#include "kvplane/store/write_behind.h"

namespace kvplane::store {

struct SlowTier {
  std::unique_ptr<Store> store;
  bool durable = true;  // durable puts wait for it
  // The most a look-up or a read waits for this tier, whatever its own deadline is.
  base::Duration lookup_budget = std::chrono::milliseconds(50);
  base::Duration read_budget = std::chrono::seconds(5);
  BreakerOptions breaker{};
  WriteBehindOptions writes{};
};

struct TieredOptions {
  DramOptions dram{};             // its clock is the stack's; `on_evict` is the stack's own
  std::vector<SlowTier> tiers{};  // fastest first
  // Of objects on their way up, beside memory's own bytes; one object alone may exceed it (promoter.h).
  uint64_t max_assembly_bytes = 0;  // 0: a quarter of memory's capacity, 256 MiB at most
};

struct TierStats {
  TierKind kind = TierKind::kDram;
  std::string name;
  StoreStats store;    // as the tier counts
  uint64_t hits = 0;   // keys of look-ups that this tier gave
  uint64_t reads = 0;  // ranges that this tier delivered
  uint64_t read_bytes = 0;
  // Of slower tiers:
  WriteBehindStats writes;
  uint64_t errors = 0;        // look-ups and reads that failed or ran out of the tier's budget
  uint64_t left_out = 0;      // look-ups, reads and touches that did without the tier: its breaker was open
  bool breaker_open = false;  // of look-ups and reads
  uint64_t breaker_opened = 0;
  bool writes_left_out = false;  // puts failed in a row: the queue waits
};

class TieredStore : public Store {
 public:
  // kInvalidArgument: memory's options, a null tier, budgets that are not positive, too many tiers.
  static base::Result<std::unique_ptr<TieredStore>> Create(TieredOptions options);

  // Memory first.
  virtual std::vector<TierStats> tier_stats() const = 0;
  virtual PromoterStats promoter_stats() const = 0;
  // See DramStore.
  virtual uint64_t detached_bytes() const = 0;
  virtual uint64_t pinned_bytes() const = 0;
};

}  // namespace kvplane::store

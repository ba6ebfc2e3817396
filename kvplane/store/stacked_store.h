// StackedStore: the store behind TieredStore. Internal to kvplane/store.
//
// tiered_store.cc has look-ups, reads, puts and what moves up; tiered_erase.cc what goes away.
//
// Thread safety: as Store.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvplane/base/mutex.h"
#include "kvplane/store/read_detours.h"
#include "kvplane/store/tiered_store.h"
#include "kvplane/store/touch_behind.h"

namespace kvplane::store {

class StackedStore final : public TieredStore {
 public:
  explicit StackedStore(TieredOptions& options);
  ~StackedStore() override { StackedStore::Shutdown(); }

  base::Status Open(DramOptions options);

  TierKind kind() const override { return TierKind::kDram; }
  std::string name() const override;
  base::Result<std::vector<EntryInfo>> Lookup(std::span<const StoreKey> keys, uint16_t min_quality,
                                              base::TimePoint deadline) override;
  std::vector<base::Result<Slice>> Read(std::span<const ReadRequest> requests,
                                        base::TimePoint deadline) override;
  base::Status Put(const StoreKey& key, const EntryMeta& meta, Slice object, const PutOptions& options,
                   base::TimePoint deadline) override;
  base::Status Touch(std::span<const StoreKey> keys, base::TimePoint deadline) override;
  base::Status Pin(const StoreKey& key, base::Duration max_age, base::TimePoint deadline) override;
  base::Status Erase(const StoreKey& key, base::TimePoint deadline) override;
  base::Result<uint64_t> EraseTenant(uint64_t tenant, base::TimePoint deadline) override;
  void Quarantine(const StoreKey& key) override;
  base::Status Flush(base::TimePoint deadline) override;
  StoreStats stats() const override;
  void Shutdown() override;
  std::vector<TierStats> tier_stats() const override;
  PromoterStats promoter_stats() const override { return promoter_->stats(); }
  uint64_t detached_bytes() const override { return dram_->detached_bytes(); }
  uint64_t pinned_bytes() const override { return dram_->pinned_bytes(); }

 private:
  // One slower tier with all that belongs to it.
  struct Lower {
    explicit Lower(SlowTier options, base::Clock& clock)
        : tier(std::move(options)),
          breakers(tier.breaker),
          writes(WriteBehind::Create(*tier.store, breakers, clock, tier.writes)) {}

    SlowTier tier;
    TierBreakers breakers;
    std::atomic<uint64_t> hits{0}, reads{0}, read_bytes{0}, errors{0}, left_out{0};
    std::unique_ptr<WriteBehind> writes;  // last: its thread uses the tier and the breakers
  };

  // What an erasure in progress takes away: one entry, or all of a tenant.
  struct ErasureScope {
    uint64_t tenant = 0;
    std::optional<StoreKey> key;

    bool Covers(const StoreKey& other) const {
      return key.has_value() ? *key == other : tenant == other.tenant;
    }
    bool operator==(const ErasureScope&) const = default;
  };

  struct Counters {
    std::atomic<uint64_t> lookups{0}, lookup_keys{0}, hits{0}, reads{0}, read_bytes{0}, misses{0};
    std::atomic<uint64_t> puts{0}, put_bytes{0}, puts_refused{0}, corrupt{0};
  };

  static ReadDetours::Tiers Bit(size_t tier) { return ReadDetours::Tiers{1} << tier; }

  // The longest prefix of `keys` that the tier has; nothing when it fails or is left out. `cut`: the chain
  // must end there, as a faster tier keeps a worse copy of the next key, and reads would get that one.
  // `skipped`: tiers that this look-up did without.
  std::vector<EntryInfo> LookupLower(size_t index, std::span<const StoreKey> keys, uint16_t min_quality,
                                     base::TimePoint deadline, ReadDetours::Tiers& skipped, bool& cut);
  // These rid tiers faster than `index` of copies of `keys` below `min_quality`, and leave good ones alone.
  // They return for how many keys, from the first on, that went well. First: all tiers; then memory and the
  // queues alone; one slow tier, `at`; one copy of it.
  size_t RemoveWorse(size_t index, std::span<const StoreKey> keys, uint16_t min_quality,
                     base::TimePoint deadline, ReadDetours::Tiers& skipped) KVPLANE_EXCLUDES(order_);
  size_t RemoveWorseQueued(size_t index, std::span<const StoreKey> keys, uint16_t min_quality)
      KVPLANE_REQUIRES(order_);
  size_t RemoveWorseOf(size_t at, size_t index, std::span<const StoreKey> keys, uint16_t min_quality,
                       base::TimePoint deadline) KVPLANE_EXCLUDES(order_);
  bool RemoveCopy(size_t at, size_t index, const StoreKey& key, uint16_t min_quality,
                  base::TimePoint deadline) KVPLANE_EXCLUDES(order_);
  // Tries the requests at `missing` in one tier; what is answered for good leaves `missing`.
  void ReadLower(size_t index, std::span<const ReadRequest> requests, base::TimePoint deadline,
                 std::vector<size_t>& missing, std::vector<base::Result<Slice>>& out);
  // How a look-up, a read or a touch of a tier ended: for its breaker of those and its counters.
  void Judge(Lower& lower, base::StatusCode code, bool own_budget);
  void Promote(const StoreKey& key, const EntryMeta& meta, Slice object, uint64_t epoch)
      KVPLANE_EXCLUDES(order_);
  void TouchLowers(std::span<const StoreKey> keys);
  // The whole object as this tier has it, to memory, and pins it there. kNotFound: not in this tier.
  base::Status BringUpPinned(Lower& lower, const StoreKey& key, base::Duration max_age,
                             base::TimePoint deadline) KVPLANE_EXCLUDES(order_);
  // Whether what was read at `epoch` may go up: no erasure of it has begun since.
  bool MayRise(const StoreKey& key, uint64_t epoch) const KVPLANE_REQUIRES(order_);
  void WriteAgain(EvictedEntry entry);
  // Around an erasure of slower tiers: nothing that was read of them before EndErasure() goes up to memory,
  // so that what memory lost cannot come back from a tier whose turn has not come yet.
  void BeginErasure(const ErasureScope& scope) KVPLANE_REQUIRES(order_);
  void EndErasure(const ErasureScope& scope) KVPLANE_EXCLUDES(order_);

  base::Clock& clock_;
  Counters counters_;
  std::atomic<bool> shut_down_{false};

  // Makes "put into memory and queue" and "erase from memory and from the queues" one step each, so that no
  // eviction or promotion of an entry can slip in behind its erasure. Held for moments only.
  base::Mutex order_;
  std::atomic<uint64_t> epoch_{0};  // counts beginnings and ends of erasures; written under order_
  std::vector<ErasureScope> erasures_ KVPLANE_GUARDED_BY(order_);  // in progress
  ReadDetours detours_;

  std::unique_ptr<DramStore> dram_;
  std::vector<std::unique_ptr<Lower>> lowers_;
  std::unique_ptr<Promoter> promoter_;  // last, these two: their threads use everything above
  std::unique_ptr<TouchBehind> touches_;
};

}  // namespace kvplane::store

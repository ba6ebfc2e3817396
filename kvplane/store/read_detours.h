// ReadDetours: tiers that reads of a key must leave out for a while.
//
// A look-up with a least quality skips a tier that is left alone after failures and finds the entry in a
// slower one. Should the skipped tier come back before the entry is read, it may have a worse copy of it,
// which the look-up could not see, and reads go to the fastest tier. So the look-up leaves a note here.
//
// Bounded in time (kLifetime, far more than a look-up and its reads take) and in number; where there is no
// room for a note the look-up must do without the entry.
//
// Thread safety: all members may be called from any thread. Of() costs no lock while there are no notes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <unordered_map>

#include "kvplane/base/clock.h"
#include "kvplane/base/mutex.h"
#include "kvplane/store/entry.h"

namespace kvplane::store {

class ReadDetours {
 public:
  static constexpr base::Duration kLifetime = std::chrono::minutes(1);
  static constexpr size_t kMaxNotes = 4 * kMaxKeysPerCall;  // about 40 MB, in the worst minute
  static constexpr size_t kMaxTiers = 32;

  using Tiers = uint32_t;  // a bit for each

  // Reads of `keys` leave `tiers` out from now on. False: no room, nothing was noted.
  bool Add(std::span<const StoreKey> keys, Tiers tiers, base::TimePoint now) KVPLANE_EXCLUDES(mutex_);
  // A look-up has found `keys` in this tier: reads may use it again.
  void Remove(std::span<const StoreKey> keys, Tiers tier) KVPLANE_EXCLUDES(mutex_);
  Tiers Of(const StoreKey& key, base::TimePoint now) const KVPLANE_EXCLUDES(mutex_);

 private:
  struct Note {
    Tiers tiers = 0;
    base::TimePoint ends;
  };
  struct Ending {
    base::TimePoint when;
    StoreKey key;
  };
  void Expire(base::TimePoint now) KVPLANE_REQUIRES(mutex_);

  std::atomic<bool> any_{false};
  mutable base::Mutex mutex_;
  std::unordered_map<StoreKey, Note, StoreKeyHash> notes_ KVPLANE_GUARDED_BY(mutex_);
  std::deque<Ending> endings_ KVPLANE_GUARDED_BY(mutex_);  // also of notes that were renewed or removed since
};

}  // namespace kvplane::store

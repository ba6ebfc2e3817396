// StackedStore: erasures, of entries or of worse copies, in all tiers and of what is on its way between them.
#include <algorithm>
#include <utility>

#include "kvplane/store/stacked_store.h"

namespace kvplane::store {
namespace {

// Keys that a tier is asked for at once when worse copies are looked for: a call ends at the first that the
// tier lacks, so a long list would mostly be sent for nothing.
constexpr size_t kProbedKeys = 64;

// Quarantine() has no deadline of its own.
constexpr base::Duration kQuarantineWait = std::chrono::seconds(1);

}  // namespace

size_t StackedStore::RemoveWorse(size_t index, std::span<const StoreKey> keys, uint16_t min_quality,
                                 base::TimePoint deadline, ReadDetours::Tiers& skipped) {
  size_t good = 0;
  {
    base::MutexLock lock(order_);
    good = RemoveWorseQueued(index, keys, min_quality);
  }
  for (size_t at = 0; at < index && good > 0; ++at) {
    if (lowers_[at]->breakers.reads.open()) {
      skipped |= Bit(at);
      continue;
    }
    good = RemoveWorseOf(at, index, keys.first(good), min_quality, deadline);
  }
  return good;
}

size_t StackedStore::RemoveWorseQueued(size_t index, std::span<const StoreKey> keys, uint16_t min_quality) {
  // A copy of what memory had may be on its way up again.
  if (dram_->EraseWorse(keys, min_quality) > 0) ++epoch_;
  size_t good = keys.size();
  for (size_t at = 0; at < index; ++at) good = lowers_[at]->writes->DropWorse(keys.first(good), min_quality);
  return good;
}

size_t StackedStore::RemoveWorseOf(size_t at, size_t index, std::span<const StoreKey> keys,
                                   uint16_t min_quality, base::TimePoint deadline) {
  Lower& lower = *lowers_[at];
  const base::TimePoint budget = base::Clock::System().Now() + lower.tier.lookup_budget;
  const base::TimePoint end = std::min(deadline, budget);
  size_t good = 0;
  while (good < keys.size()) {
    const auto probed = keys.subspan(good, std::min(kProbedKeys, keys.size() - good));
    const auto found = lower.tier.store->Lookup(probed, 0, end);
    Judge(lower, found.status().code(), budget <= deadline);
    if (!found.ok()) return good;
    for (size_t i = 0; i < found->size(); ++i, ++good) {
      if ((*found)[i].quality < min_quality && !RemoveCopy(at, index, probed[i], min_quality, end)) {
        return good;
      }
    }
    if (found->size() < probed.size()) ++good;  // the tier does not have this one
  }
  return good;
}

bool StackedStore::RemoveCopy(size_t at, size_t index, const StoreKey& key, uint16_t min_quality,
                              base::TimePoint deadline) {
  const ErasureScope scope{.tenant = key.tenant, .key = key};
  bool gone = false;
  {
    base::MutexLock lock(order_);
    BeginErasure(scope);
    gone = RemoveWorseQueued(index, std::span(&key, 1), min_quality) == 1;
  }
  gone = gone && lowers_[at]->tier.store->Erase(key, deadline).ok();
  EndErasure(scope);
  return gone;
}

void StackedStore::BeginErasure(const ErasureScope& scope) {
  ++epoch_;
  erasures_.push_back(scope);
}

void StackedStore::EndErasure(const ErasureScope& scope) {
  base::MutexLock lock(order_);
  ++epoch_;  // who read during the erasure comes too late as well
  erasures_.erase(std::ranges::find(erasures_, scope));
}

base::Status StackedStore::Erase(const StoreKey& key, base::TimePoint deadline) {
  const ErasureScope scope{.tenant = key.tenant, .key = key};
  base::Status out;
  {
    base::MutexLock lock(order_);
    BeginErasure(scope);
    for (const auto& lower : lowers_) lower->writes->Drop(key);
    out = dram_->Erase(key, deadline);
  }
  for (const auto& lower : lowers_) {
    base::Status erased = lower->writes->AwaitKey(key, deadline);
    if (erased.ok()) erased = lower->tier.store->Erase(key, deadline);
    if (out.ok()) out = erased.Annotate(lower->tier.store->name());
  }
  EndErasure(scope);
  return out;
}

base::Result<uint64_t> StackedStore::EraseTenant(uint64_t tenant, base::TimePoint deadline) {
  const ErasureScope scope{.tenant = tenant, .key = {}};
  uint64_t most = 0;
  base::Status failed;
  {
    base::MutexLock lock(order_);
    KVPLANE_ASSIGN_OR_RETURN(most, dram_->EraseTenant(tenant, deadline));
    BeginErasure(scope);
    for (const auto& lower : lowers_) lower->writes->DropTenant(tenant);
  }
  for (const auto& lower : lowers_) {
    base::Status waited = lower->writes->AwaitTenant(tenant, deadline);
    if (waited.ok()) {
      const auto erased = lower->tier.store->EraseTenant(tenant, deadline);
      if (erased.ok()) most = std::max(most, *erased);
      waited = erased.status();
    }
    if (failed.ok()) failed = waited.Annotate(lower->tier.store->name());
  }
  EndErasure(scope);
  if (!failed.ok()) return failed;
  return most;
}

void StackedStore::Quarantine(const StoreKey& key) {
  const ErasureScope scope{.tenant = key.tenant, .key = key};
  ++counters_.corrupt;
  {
    base::MutexLock lock(order_);
    BeginErasure(scope);
    for (const auto& lower : lowers_) lower->writes->Drop(key);
    dram_->Quarantine(key);
  }
  for (const auto& lower : lowers_) {
    (void)lower->writes->AwaitKey(key, base::Clock::System().Now() + kQuarantineWait);
    lower->tier.store->Quarantine(key);
  }
  EndErasure(scope);
}

}  // namespace kvplane::store

#include "kvplane/store/read_detours.h"

namespace kvplane::store {

bool ReadDetours::Add(std::span<const StoreKey> keys, Tiers tiers, base::TimePoint now) {
  base::MutexLock lock(mutex_);
  Expire(now);
  if (endings_.size() + keys.size() > kMaxNotes) return false;
  for (const StoreKey& key : keys) {
    Note& note = notes_[key];
    note.tiers |= tiers;
    note.ends = now + kLifetime;
    endings_.push_back({.when = note.ends, .key = key});
  }
  any_.store(!notes_.empty());
  return true;
}

void ReadDetours::Remove(std::span<const StoreKey> keys, Tiers tier) {
  if (!any_.load()) return;
  base::MutexLock lock(mutex_);
  for (const StoreKey& key : keys) {
    const auto found = notes_.find(key);
    if (found == notes_.end()) continue;
    found->second.tiers &= ~tier;
    if (found->second.tiers == 0) notes_.erase(found);
  }
  any_.store(!notes_.empty());
}

ReadDetours::Tiers ReadDetours::Of(const StoreKey& key, base::TimePoint now) const {
  if (!any_.load()) return 0;
  base::MutexLock lock(mutex_);
  const auto found = notes_.find(key);
  return found == notes_.end() || found->second.ends <= now ? 0 : found->second.tiers;
}

void ReadDetours::Expire(base::TimePoint now) {
  while (!endings_.empty() && endings_.front().when <= now) {
    const auto found = notes_.find(endings_.front().key);
    if (found != notes_.end() && found->second.ends <= now) notes_.erase(found);
    endings_.pop_front();
  }
  any_.store(!notes_.empty());
}

}  // namespace kvplane::store

#include "kvplane/store/disk_index.h"

#include <algorithm>

namespace kvplane::store {
namespace {

// Names of what is gone are swept out of the order of age when they outnumber the rest.
constexpr size_t kSweepAbove = 1024;

}  // namespace

DiskEntry* DiskIndex::Find(const StoreKey& key) {
  const auto at = entries_.find(key);
  return at == entries_.end() ? nullptr : &at->second;
}

void DiskIndex::Insert(const StoreKey& key, DiskEntry entry) {
  Erase(key);
  entry.written_at = written_bytes_;
  written_bytes_ += entry.bytes;
  bytes_ += entry.bytes;
  by_age_.push_back({entry.sequence, key});
  entries_.emplace(key, entry);
  if (by_age_.size() > kSweepAbove && by_age_.size() > 2 * entries_.size()) {
    std::erase_if(by_age_, [&](const Aged& aged) {
      const DiskEntry* held = Find(aged.key);
      return held == nullptr || held->sequence != aged.sequence;
    });
  }
}

bool DiskIndex::Erase(const StoreKey& key) {
  const auto at = entries_.find(key);
  if (at == entries_.end()) return false;
  bytes_ -= at->second.bytes;
  entries_.erase(at);
  return true;
}

bool DiskIndex::Erase(const StoreKey& key, uint64_t sequence) {
  const DiskEntry* entry = Find(key);
  return entry != nullptr && entry->sequence == sequence && Erase(key);
}

void DiskIndex::EvictOldest(std::vector<StoreKey>& gone) {
  const Aged oldest = by_age_.front();
  by_age_.pop_front();
  if (Erase(oldest.key, oldest.sequence)) gone.push_back(oldest.key);
}

void DiskIndex::EvictTo(uint64_t budget_bytes, std::vector<StoreKey>& gone) {
  while (bytes_ > budget_bytes && !by_age_.empty()) EvictOldest(gone);
}

void DiskIndex::EvictBelow(uint64_t sequence, std::vector<StoreKey>& gone) {
  while (!by_age_.empty() && by_age_.front().sequence < sequence) EvictOldest(gone);
}

void DiskIndex::EraseTenant(uint64_t tenant, size_t limit, std::vector<StoreKey>& gone) {
  auto at = entries_.lower_bound(StoreKey{.tenant = tenant});
  while (at != entries_.end() && at->first.tenant == tenant && limit-- > 0) {
    gone.push_back(at->first);
    bytes_ -= at->second.bytes;
    at = entries_.erase(at);
  }
}

std::optional<StoreKey> DiskIndex::After(const std::optional<StoreKey>& key) const {
  const auto at = key.has_value() ? entries_.upper_bound(*key) : entries_.begin();
  if (at == entries_.end()) return std::nullopt;
  return at->first;
}

}  // namespace kvplane::store

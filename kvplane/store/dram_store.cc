#include "kvplane/store/dram_store.h"

#include <algorithm>
#include <atomic>
#include <set>
#include <unordered_map>
#include <utility>

#include "kvplane/base/check.h"
#include "kvplane/base/mutex.h"
#include "kvplane/store/call_checks.h"
#include "kvplane/store/lru.h"
#include "kvplane/store/s3_fifo.h"

namespace kvplane::store {
namespace {

constexpr base::TimePoint kNever = base::TimePoint::max();
constexpr uint64_t kNoQuota = ~0ull;
// Expired entries that one call removes beside its own work; the next call goes on.
constexpr size_t kExpiredPerCall = 64;

using Node = EvictionNode<StoreKey>;
using TimedKeys = std::set<std::pair<base::TimePoint, StoreKey>>;

// An object as long as somebody has it: the store, or readers after it left.
class Held {
 public:
  Held(Slice object, std::shared_ptr<std::atomic<uint64_t>> resident)
      : object_(std::move(object)), resident_(std::move(resident)) {
    resident_->fetch_add(object_.size(), std::memory_order_relaxed);
  }
  ~Held() { resident_->fetch_sub(object_.size(), std::memory_order_relaxed); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

  const Slice& object() const { return object_; }

 private:
  Slice object_;
  std::shared_ptr<std::atomic<uint64_t>> resident_;
};
using HeldPtr = std::shared_ptr<const Held>;

Slice SliceOf(const HeldPtr& held) { return {held, held->object().bytes()}; }

struct Entry {
  Node node;         // in the store's policy
  Node tenant_node;  // in its tenant's order
  HeldPtr held;
  EntryMeta meta;
  base::TimePoint expires = kNever;
  uint32_t uses = 0;
};

base::Duration TtlLeft(const Entry& entry, base::TimePoint now) {
  return entry.expires == kNever ? base::Duration::zero() : entry.expires - now;
}

struct Tenant {
  uint64_t bytes = 0;
  uint64_t entries = 0;
  Lru<StoreKey> order;  // who goes when the tenant is over its quota
};

std::unique_ptr<EvictionPolicy<StoreKey>> MakePolicy(PolicyKind kind, uint64_t capacity) {
  switch (kind) {
    case PolicyKind::kLru:
      return std::make_unique<Lru<StoreKey>>();
    case PolicyKind::kS3Fifo:
      return std::make_unique<S3Fifo<StoreKey, StoreKeyHash>>(capacity);
  }
  KVPLANE_CHECK(false);
}

class LockedDramStore final : public DramStore {
 public:
  explicit LockedDramStore(const DramOptions& options)
      : options_(options),
        clock_(options.clock == nullptr ? base::Clock::System() : *options.clock),
        pinned_capacity_(
            static_cast<uint64_t>(static_cast<double>(options.capacity_bytes) * options.pinned_share)),
        resident_(std::make_shared<std::atomic<uint64_t>>(0)),
        policy_(MakePolicy(options.policy, options.capacity_bytes)) {}

  TierKind kind() const override { return TierKind::kDram; }
  std::string name() const override { return "dram"; }

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
  base::Status Flush(base::TimePoint /*deadline*/) override { return base::Status::Ok(); }
  StoreStats stats() const override;
  void Shutdown() override;
  size_t EraseWorse(std::span<const StoreKey> keys, uint16_t min_quality) override;
  uint64_t detached_bytes() const override;
  uint64_t pinned_bytes() const override;

 private:
  // What left during a call: handed on or freed when the lock is no longer held.
  struct Leaving {
    std::vector<EvictedEntry> evicted;
    std::vector<HeldPtr> freed;
  };

  base::Status CheckOpen() const KVPLANE_REQUIRES(mutex_) {
    return shut_down_ ? base::Cancelled("the store was shut down") : base::Status::Ok();
  }
  uint64_t QuotaOf(uint64_t tenant) const;
  // Null when it is not there or expired.
  Entry* Find(const StoreKey& key, base::TimePoint now) KVPLANE_REQUIRES(mutex_);
  void Use(Entry& entry) KVPLANE_REQUIRES(mutex_);
  void Expire(base::TimePoint now, Leaving& leaving) KVPLANE_REQUIRES(mutex_);
  void DropPastPins(base::TimePoint now) KVPLANE_REQUIRES(mutex_);
  void SetPin(Entry& entry, base::TimePoint until) KVPLANE_REQUIRES(mutex_);
  // Takes an entry out of everything but the orders it is no longer linked in.
  HeldPtr Take(Entry& entry) KVPLANE_REQUIRES(mutex_);
  void EvictEntry(Entry& entry, base::TimePoint now, Leaving& leaving) KVPLANE_REQUIRES(mutex_);
  base::Status MakeRoom(uint64_t tenant, uint64_t charge, base::TimePoint now, Leaving& leaving)
      KVPLANE_REQUIRES(mutex_);
  base::Status PutLocked(const StoreKey& key, const EntryMeta& meta, HeldPtr held, base::TimePoint now,
                         Leaving& leaving) KVPLANE_REQUIRES(mutex_);
  void Add(const StoreKey& key, const EntryMeta& meta, HeldPtr held, base::TimePoint now)
      KVPLANE_REQUIRES(mutex_);
  void HandOn(Leaving& leaving) KVPLANE_EXCLUDES(mutex_);

  const DramOptions options_;
  base::Clock& clock_;
  const uint64_t pinned_capacity_;
  const std::shared_ptr<std::atomic<uint64_t>> resident_;  // object bytes held by anybody

  mutable base::Mutex mutex_;
  bool shut_down_ KVPLANE_GUARDED_BY(mutex_) = false;
  std::unordered_map<StoreKey, Entry, StoreKeyHash> entries_ KVPLANE_GUARDED_BY(mutex_);
  const std::unique_ptr<EvictionPolicy<StoreKey>> policy_;  // used under mutex_ only
  std::unordered_map<uint64_t, Tenant> tenants_ KVPLANE_GUARDED_BY(mutex_);
  TimedKeys expiries_ KVPLANE_GUARDED_BY(mutex_);
  TimedKeys pins_ KVPLANE_GUARDED_BY(mutex_);
  uint64_t pinned_bytes_ KVPLANE_GUARDED_BY(mutex_) = 0;
  uint64_t object_bytes_ KVPLANE_GUARDED_BY(mutex_) = 0;
  StoreStats stats_ KVPLANE_GUARDED_BY(mutex_);  // `bytes`: charged
};

uint64_t LockedDramStore::QuotaOf(uint64_t tenant) const {
  const auto own = options_.quotas.find(tenant);
  const uint64_t quota = own == options_.quotas.end() ? options_.tenant_quota_bytes : own->second;
  return quota == 0 ? kNoQuota : quota;
}

Entry* LockedDramStore::Find(const StoreKey& key, base::TimePoint now) {
  const auto at = entries_.find(key);
  return at == entries_.end() || at->second.expires <= now ? nullptr : &at->second;
}

void LockedDramStore::Use(Entry& entry) {
  ++entry.uses;
  policy_->Use(entry.node);
  tenants_.find(entry.node.key.tenant)->second.order.Use(entry.tenant_node);
}

void LockedDramStore::DropPastPins(base::TimePoint now) {
  while (!pins_.empty() && pins_.begin()->first <= now) {
    SetPin(entries_.find(pins_.begin()->second)->second, base::TimePoint{});
  }
}

void LockedDramStore::SetPin(Entry& entry, base::TimePoint until) {
  if (entry.node.pinned_until != base::TimePoint{}) {
    pins_.erase({entry.node.pinned_until, entry.node.key});
    pinned_bytes_ -= entry.node.weight;
  }
  entry.node.pinned_until = entry.tenant_node.pinned_until = until;
  if (until != base::TimePoint{}) {
    pins_.insert({until, entry.node.key});
    pinned_bytes_ += entry.node.weight;
  }
}

HeldPtr LockedDramStore::Take(Entry& entry) {
  SetPin(entry, base::TimePoint{});
  if (entry.expires != kNever) expiries_.erase({entry.expires, entry.node.key});
  if (entry.node.queue != 0) policy_->Remove(entry.node);
  const auto tenant = tenants_.find(entry.node.key.tenant);
  if (entry.tenant_node.queue != 0) tenant->second.order.Remove(entry.tenant_node);
  tenant->second.bytes -= entry.node.weight;
  if (--tenant->second.entries == 0) tenants_.erase(tenant);
  stats_.bytes -= entry.node.weight;
  --stats_.entries;
  HeldPtr held = std::move(entry.held);
  object_bytes_ -= held->object().size();
  const StoreKey key = entry.node.key;  // a copy: the entry goes with its node
  entries_.erase(key);
  return held;
}

void LockedDramStore::Expire(base::TimePoint now, Leaving& leaving) {
  for (size_t n = 0; n < kExpiredPerCall && !expiries_.empty() && expiries_.begin()->first <= now; ++n) {
    leaving.freed.push_back(Take(entries_.find(expiries_.begin()->second)->second));
    ++stats_.expirations;
  }
}

void LockedDramStore::EvictEntry(Entry& entry, base::TimePoint now, Leaving& leaving) {
  EvictedEntry out{.key = entry.node.key, .meta = entry.meta, .object = {}, .uses = entry.uses};
  const bool alive = entry.expires > now;
  out.meta.ttl = TtlLeft(entry, now);
  HeldPtr held = Take(entry);
  ++stats_.evictions;
  if (options_.on_evict != nullptr && alive) {
    out.object = SliceOf(held);
    leaving.evicted.push_back(std::move(out));
  }
  leaving.freed.push_back(std::move(held));
}

base::Status LockedDramStore::MakeRoom(uint64_t tenant, uint64_t charge, base::TimePoint now,
                                       Leaving& leaving) {
  const uint64_t quota = QuotaOf(tenant);
  for (auto own = tenants_.find(tenant); own != tenants_.end() && own->second.bytes + charge > quota;
       own = tenants_.find(tenant)) {
    const Node* const victim = own->second.order.Evict(now);
    if (victim == nullptr) return base::ResourceExhausted("the tenant's quota is full of pinned entries");
    EvictEntry(entries_.find(victim->key)->second, now, leaving);
  }
  while (stats_.bytes + charge > options_.capacity_bytes) {
    const Node* const victim = policy_->Evict(now);
    if (victim == nullptr) return base::ResourceExhausted("the store is full of pinned entries");
    EvictEntry(entries_.find(victim->key)->second, now, leaving);
  }
  return base::Status::Ok();
}

void LockedDramStore::Add(const StoreKey& key, const EntryMeta& meta, HeldPtr held, base::TimePoint now) {
  Entry& entry = entries_[key];
  entry.node.key = entry.tenant_node.key = key;
  entry.node.weight = entry.tenant_node.weight = held->object().size() + kEntryOverheadBytes;
  entry.meta = meta;
  const base::Duration ttl = meta.ttl > base::Duration::zero() ? meta.ttl : options_.default_ttl;
  if (ttl > base::Duration::zero() && ttl < kNever - now) {
    entry.expires = now + ttl;
    expiries_.insert({entry.expires, key});
  }
  object_bytes_ += held->object().size();
  stats_.bytes += entry.node.weight;
  ++stats_.entries;
  entry.held = std::move(held);
  Tenant& tenant = tenants_[key.tenant];
  tenant.bytes += entry.node.weight;
  ++tenant.entries;
  tenant.order.Insert(entry.tenant_node);
  policy_->Insert(entry.node);
}

base::Status LockedDramStore::PutLocked(const StoreKey& key, const EntryMeta& meta, HeldPtr held,
                                        base::TimePoint now, Leaving& leaving) {
  KVPLANE_RETURN_IF_ERROR(CheckOpen());
  Expire(now, leaving);
  DropPastPins(now);
  const uint64_t bytes = held->object().size();
  const uint64_t charge = bytes + kEntryOverheadBytes;
  base::TimePoint pinned_until{};
  if (const auto at = entries_.find(key); at != entries_.end()) {
    Entry& old = at->second;
    if (old.expires > now && old.meta.quality >= meta.quality) {
      Use(old);
      return base::Status::Ok();
    }
    pinned_until = old.node.pinned_until;
    leaving.freed.push_back(Take(old));
  }
  base::Status room = MakeRoom(key.tenant, charge, now, leaving);
  if (!room.ok()) {
    ++stats_.puts_refused;
    return room;
  }
  Add(key, meta, std::move(held), now);
  if (pinned_until > now && pinned_bytes_ + charge <= pinned_capacity_) {
    SetPin(entries_.find(key)->second, pinned_until);
  }
  ++stats_.puts;
  stats_.put_bytes += bytes;
  return base::Status::Ok();
}

void LockedDramStore::HandOn(Leaving& leaving) {
  for (EvictedEntry& evicted : leaving.evicted) options_.on_evict(std::move(evicted));
}

base::Status LockedDramStore::Put(const StoreKey& key, const EntryMeta& meta, Slice object,
                                  const PutOptions& /*options*/, base::TimePoint /*deadline*/) {
  base::Status checked = CheckPut(meta, object.size());
  const uint64_t limit = std::min(QuotaOf(key.tenant), options_.capacity_bytes);
  if (checked.ok() && object.size() + kEntryOverheadBytes > limit) {
    checked = base::ResourceExhausted("an object of {} bytes and {} of overhead, the tenant may have {}",
                                      object.size(), kEntryOverheadBytes, limit);
  }
  if (!checked.ok()) {
    base::MutexLock lock(mutex_);
    KVPLANE_RETURN_IF_ERROR(CheckOpen());
    ++stats_.puts_refused;
    return checked;
  }
  auto held = std::make_shared<const Held>(std::move(object), resident_);
  Leaving leaving;
  base::Status put;
  {
    base::MutexLock lock(mutex_);
    put = PutLocked(key, meta, std::move(held), clock_.Now(), leaving);
  }
  HandOn(leaving);
  return put;
}

base::Result<std::vector<EntryInfo>> LockedDramStore::Lookup(std::span<const StoreKey> keys,
                                                             uint16_t min_quality,
                                                             base::TimePoint /*deadline*/) {
  KVPLANE_RETURN_IF_ERROR(CheckKeys(keys));
  std::vector<EntryInfo> found;
  std::vector<Entry*> used;
  Leaving leaving;  // before the lock: freed after it
  base::MutexLock lock(mutex_);
  KVPLANE_RETURN_IF_ERROR(CheckOpen());
  const base::TimePoint now = clock_.Now();
  Expire(now, leaving);
  for (const StoreKey& key : keys) {
    Entry* const entry = Find(key, now);
    if (entry == nullptr || entry->meta.quality < min_quality) break;
    found.push_back({.bytes = entry->held->object().size(),
                     .prefix_bytes = entry->meta.prefix_bytes,
                     .quality = entry->meta.quality,
                     .tier = TierKind::kDram,
                     .ttl_left = TtlLeft(*entry, now)});
    used.push_back(entry);
  }
  for (auto at = used.rbegin(); at != used.rend(); ++at) Use(**at);
  ++stats_.lookups;
  stats_.lookup_keys += keys.size();
  stats_.hits += found.size();
  return found;
}

std::vector<base::Result<Slice>> LockedDramStore::Read(std::span<const ReadRequest> requests,
                                                       base::TimePoint /*deadline*/) {
  std::vector<base::Result<Slice>> out;
  out.reserve(requests.size());
  base::MutexLock lock(mutex_);
  if (const base::Status open = CheckOpen(); !open.ok()) {
    out.assign(requests.size(), open);
    return out;
  }
  const base::TimePoint now = clock_.Now();
  for (const ReadRequest& request : requests) {
    const Entry* const entry = Find(request.key, now);
    if (entry == nullptr) {
      ++stats_.misses;
      out.emplace_back(base::NotFound("not in memory"));
      continue;
    }
    const auto range = ResolveRange(request, entry->held->object().size());
    if (!range.ok()) {
      out.emplace_back(range.status());
      continue;
    }
    ++stats_.reads;
    stats_.read_bytes += range->bytes;
    out.emplace_back(SliceOf(entry->held).Sub(range->offset, range->bytes));
  }
  return out;
}

base::Status LockedDramStore::Touch(std::span<const StoreKey> keys, base::TimePoint /*deadline*/) {
  KVPLANE_RETURN_IF_ERROR(CheckKeys(keys));
  base::MutexLock lock(mutex_);
  KVPLANE_RETURN_IF_ERROR(CheckOpen());
  const base::TimePoint now = clock_.Now();
  for (auto key = keys.rbegin(); key != keys.rend(); ++key) {
    if (Entry* const entry = Find(*key, now); entry != nullptr) Use(*entry);
  }
  return base::Status::Ok();
}

base::Status LockedDramStore::Pin(const StoreKey& key, base::Duration max_age, base::TimePoint /*deadline*/) {
  base::MutexLock lock(mutex_);
  KVPLANE_RETURN_IF_ERROR(CheckOpen());
  const base::TimePoint now = clock_.Now();
  DropPastPins(now);
  Entry* const entry = Find(key, now);
  if (entry == nullptr) return base::NotFound("not in memory");
  if (max_age <= base::Duration::zero()) {
    SetPin(*entry, base::TimePoint{});
    return base::Status::Ok();
  }
  const bool pinned = entry->node.pinned_until != base::TimePoint{};
  const uint64_t after = pinned_bytes_ + (pinned ? 0 : entry->node.weight);
  if (after > pinned_capacity_) {
    return base::ResourceExhausted("{} bytes would be pinned, at most {} may be", after, pinned_capacity_);
  }
  SetPin(*entry, now + std::min(max_age, options_.max_pin_age));
  return base::Status::Ok();
}

base::Status LockedDramStore::Erase(const StoreKey& key, base::TimePoint /*deadline*/) {
  HeldPtr freed;
  base::MutexLock lock(mutex_);
  KVPLANE_RETURN_IF_ERROR(CheckOpen());
  if (const auto at = entries_.find(key); at != entries_.end()) freed = Take(at->second);
  return base::Status::Ok();
}

base::Result<uint64_t> LockedDramStore::EraseTenant(uint64_t tenant, base::TimePoint /*deadline*/) {
  std::vector<HeldPtr> freed;
  base::MutexLock lock(mutex_);
  KVPLANE_RETURN_IF_ERROR(CheckOpen());
  for (auto own = tenants_.find(tenant); own != tenants_.end(); own = tenants_.find(tenant)) {
    const Node* const next = own->second.order.Evict(kNever);
    freed.push_back(Take(entries_.find(next->key)->second));
  }
  return uint64_t{freed.size()};
}

size_t LockedDramStore::EraseWorse(std::span<const StoreKey> keys, uint16_t min_quality) {
  std::vector<HeldPtr> freed;
  base::MutexLock lock(mutex_);
  for (const StoreKey& key : keys) {
    const auto at = entries_.find(key);
    if (at != entries_.end() && at->second.meta.quality < min_quality) freed.push_back(Take(at->second));
  }
  return freed.size();
}

void LockedDramStore::Quarantine(const StoreKey& key) {
  HeldPtr freed;
  base::MutexLock lock(mutex_);
  if (const auto at = entries_.find(key); at != entries_.end()) {
    freed = Take(at->second);
    ++stats_.corrupt;
  }
}

StoreStats LockedDramStore::stats() const {
  base::MutexLock lock(mutex_);
  StoreStats out = stats_;
  out.capacity_bytes = options_.capacity_bytes;
  return out;
}

uint64_t LockedDramStore::detached_bytes() const {
  base::MutexLock lock(mutex_);
  const uint64_t resident = resident_->load(std::memory_order_relaxed);
  return resident > object_bytes_ ? resident - object_bytes_ : 0;
}

uint64_t LockedDramStore::pinned_bytes() const {
  base::MutexLock lock(mutex_);
  return pinned_bytes_;
}

void LockedDramStore::Shutdown() {
  base::MutexLock lock(mutex_);
  shut_down_ = true;
}

}  // namespace

base::Result<std::unique_ptr<DramStore>> DramStore::Create(const DramOptions& options) {
  if (options.capacity_bytes <= kEntryOverheadBytes) {
    return base::InvalidArgument("a memory tier of {} bytes can hold nothing", options.capacity_bytes);
  }
  if (!(options.pinned_share >= 0 && options.pinned_share <= 1)) {
    return base::InvalidArgument("a pinned share of {} is not in [0, 1]", options.pinned_share);
  }
  if (options.default_ttl < base::Duration::zero() || options.max_pin_age < base::Duration::zero()) {
    return base::InvalidArgument("negative times for the memory tier");
  }
  return std::unique_ptr<DramStore>(std::make_unique<LockedDramStore>(options));
}

}  // namespace kvplane::store

#include "kvplane/store/tiered_store.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>

#include "kvplane/base/mutex.h"
#include "kvplane/store/call_checks.h"
#include "kvplane/store/read_detours.h"
#include "kvplane/store/touch_behind.h"

namespace kvplane::store {
namespace {

// A look-up goes through the tiers again when a slower one filled a gap of a faster one. Chains with more
// gaps than this are cut: each round costs the slower tiers a call.
constexpr int kMaxRounds = 4;
// Keys that a tier is asked for at once when worse copies are looked for: a call ends at the first that the
// tier lacks, so a long list would mostly be sent for nothing.
constexpr size_t kProbedKeys = 64;
// What objects on their way up may take beside memory's own bytes: a part of those, within reason.
constexpr uint64_t kAssemblyParts = 4;
constexpr uint64_t kMaxAssemblyBytes = 256ull << 20;

ReadDetours::Tiers Bit(size_t tier) { return ReadDetours::Tiers{1} << tier; }

// Quarantine() has no deadline of its own.
constexpr base::Duration kQuarantineWait = std::chrono::seconds(1);

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

class StackedStore final : public TieredStore {
 public:
  explicit StackedStore(TieredOptions& options)
      : clock_(options.dram.clock == nullptr ? base::Clock::System() : *options.dram.clock) {
    for (SlowTier& tier : options.tiers) {
      lowers_.push_back(std::make_unique<Lower>(std::move(tier), clock_));
    }
    const uint64_t memory = options.dram.capacity_bytes;
    const uint64_t assembly = options.max_assembly_bytes;
    promoter_ = Promoter::Create(
        clock_,
        {.max_bytes = assembly != 0 ? assembly : std::min(memory / kAssemblyParts, kMaxAssemblyBytes),
         .max_object_bytes = memory},
        [this](const StoreKey& key, const EntryMeta& meta, Slice object, uint64_t epoch) {
          Promote(key, meta, std::move(object), epoch);
        });
    touches_ = std::make_unique<TouchBehind>([this](std::span<const StoreKey> keys) { TouchLowers(keys); });
  }
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

base::Status StackedStore::Open(DramOptions options) {
  options.on_evict = [this](EvictedEntry entry) { WriteAgain(std::move(entry)); };
  KVPLANE_ASSIGN_OR_RETURN(dram_, DramStore::Create(options));
  return base::Status::Ok();
}

std::string StackedStore::name() const {
  std::string out = dram_->name();
  for (const auto& lower : lowers_) out += " + " + lower->tier.store->name();
  return out;
}

void StackedStore::Judge(Lower& lower, base::StatusCode code, bool own_budget) {
  if (!IsTierFailure(code)) {
    lower.breakers.reads.Succeeded();
    return;
  }
  // Too slow for the caller's own deadline says nothing of the tier.
  if (code == base::StatusCode::kDeadlineExceeded && !own_budget) return;
  ++lower.errors;
  lower.breakers.reads.Failed(clock_.Now());
}

std::vector<EntryInfo> StackedStore::LookupLower(size_t index, std::span<const StoreKey> keys,
                                                 uint16_t min_quality, base::TimePoint deadline,
                                                 ReadDetours::Tiers& skipped, bool& cut) {
  Lower& lower = *lowers_[index];
  if (!lower.breakers.reads.Allow(clock_.Now())) {
    ++lower.left_out;
    skipped |= Bit(index);
    return {};
  }
  const base::TimePoint budget = base::Clock::System().Now() + lower.tier.lookup_budget;
  auto found = lower.tier.store->Lookup(keys, min_quality, std::min(deadline, budget));
  Judge(lower, found.status().code(), budget <= deadline);
  if (!found.ok()) return {};
  if (min_quality > 0) {
    size_t good = RemoveWorse(index, keys.first(found->size()), min_quality, deadline, skipped);
    const ReadDetours::Tiers faster = skipped & (Bit(index) - 1);
    if (good > 0 && faster != 0 && !detours_.Add(keys.first(good), faster, clock_.Now())) good = 0;
    cut = good < found->size();
    found->resize(good);
  }
  detours_.Remove(keys.first(found->size()), Bit(index));
  lower.hits += found->size();
  for (size_t i = 0; i < found->size(); ++i) promoter_->Found(keys[i], (*found)[i]);
  return *std::move(found);
}

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

base::Result<std::vector<EntryInfo>> StackedStore::Lookup(std::span<const StoreKey> keys,
                                                          uint16_t min_quality, base::TimePoint deadline) {
  std::vector<EntryInfo> out;
  ReadDetours::Tiers skipped = 0;
  bool cut = false;
  for (int round = 0; round < kMaxRounds && !cut; ++round) {
    KVPLANE_ASSIGN_OR_RETURN(const std::vector<EntryInfo> fast,
                             dram_->Lookup(keys.subspan(out.size()), min_quality, deadline));
    out.insert(out.end(), fast.begin(), fast.end());
    const size_t before = out.size();
    for (size_t tier = 0; tier < lowers_.size() && out.size() < keys.size() && !cut; ++tier) {
      const auto found = LookupLower(tier, keys.subspan(out.size()), min_quality, deadline, skipped, cut);
      out.insert(out.end(), found.begin(), found.end());
    }
    if (out.size() == before || out.size() == keys.size()) break;
  }
  if (shut_down_.load()) return base::Cancelled("the store was shut down");
  ++counters_.lookups;
  counters_.lookup_keys += keys.size();
  counters_.hits += out.size();
  return out;
}

void StackedStore::ReadLower(size_t index, std::span<const ReadRequest> requests, base::TimePoint deadline,
                             std::vector<size_t>& missing, std::vector<base::Result<Slice>>& out) {
  Lower& lower = *lowers_[index];
  std::vector<ReadRequest> asked;
  std::vector<size_t> places;  // of those in `requests`
  std::vector<size_t> still;
  for (const size_t at : missing) {
    if ((detours_.Of(requests[at].key, clock_.Now()) & Bit(index)) != 0) {
      still.push_back(at);
    } else {
      asked.push_back(requests[at]);
      places.push_back(at);
    }
  }
  if (asked.empty()) return;
  if (!lower.breakers.reads.Allow(clock_.Now())) {
    lower.left_out += asked.size();
    return;
  }
  const uint64_t epoch = epoch_.load();
  const base::TimePoint budget = base::Clock::System().Now() + lower.tier.read_budget;
  auto results = lower.tier.store->Read(asked, std::min(deadline, budget));
  base::StatusCode worst = base::StatusCode::kOk;
  bool answered = false;
  for (size_t i = 0; i < asked.size(); ++i) {
    const size_t at = places[i];
    const base::StatusCode code = results[i].status().code();
    if (!IsTierFailure(code)) {
      answered = true;
    } else if (worst != base::StatusCode::kDeadlineExceeded) {
      worst = code;
    }
    if (results[i].ok()) {
      ++lower.reads;
      lower.read_bytes += results[i]->size();
      promoter_->Delivered(asked[i].key, asked[i].offset, *results[i], epoch);
    } else if (code != base::StatusCode::kInvalidArgument) {
      still.push_back(at);
      if (code != base::StatusCode::kNotFound) out[at] = std::move(results[i]);
      continue;
    }
    out[at] = std::move(results[i]);
  }
  // A tier of several nodes that lacks one of them is still there for the rest; unless it kept us waiting.
  const bool lame = answered && IsTierFailure(worst) && worst != base::StatusCode::kDeadlineExceeded;
  lower.errors += lame;
  Judge(lower, lame ? base::StatusCode::kOk : worst, budget <= deadline);
  missing = std::move(still);
}

std::vector<base::Result<Slice>> StackedStore::Read(std::span<const ReadRequest> requests,
                                                    base::TimePoint deadline) {
  std::vector<base::Result<Slice>> out = dram_->Read(requests, deadline);
  std::vector<size_t> missing;
  for (size_t i = 0; i < out.size(); ++i) {
    if (out[i].status().code() == base::StatusCode::kNotFound) missing.push_back(i);
  }
  for (size_t tier = 0; tier < lowers_.size() && !missing.empty(); ++tier) {
    ReadLower(tier, requests, deadline, missing, out);
  }
  const bool late = !missing.empty() && !CheckDeadline(deadline).ok();
  for (const size_t at : missing) {
    ++counters_.misses;
    const base::StatusCode code = out[at].status().code();
    if (shut_down_.load()) {
      out[at] = base::Cancelled("the store was shut down");
    } else if (code != base::StatusCode::kNotFound &&
               !(late && code == base::StatusCode::kDeadlineExceeded)) {
      // A tier that has it failed: for the caller a miss like others, with the reason.
      out[at] = base::NotFound("{}", out[at].status().ToString());
    }
  }
  for (const auto& result : out) {
    if (!result.ok()) continue;
    ++counters_.reads;
    counters_.read_bytes += result->size();
  }
  return out;
}

base::Status StackedStore::Put(const StoreKey& key, const EntryMeta& meta, Slice object,
                               const PutOptions& options, base::TimePoint deadline) {
  const uint64_t bytes = object.size();
  {
    base::MutexLock lock(order_);
    const base::Status taken = dram_->Put(key, meta, object, {}, deadline);
    if (!taken.ok()) {
      if (taken.code() != base::StatusCode::kCancelled) ++counters_.puts_refused;
      return taken;
    }
    for (const auto& lower : lowers_) {
      if (options.durable && lower->tier.durable) continue;
      lower->writes->Enqueue({.key = key, .meta = meta, .object = object});
    }
  }
  ++counters_.puts;
  counters_.put_bytes += bytes;
  if (!options.durable) return base::Status::Ok();
  for (const auto& lower : lowers_) {
    if (!lower->tier.durable) continue;
    KVPLANE_RETURN_IF_ERROR(
        lower->writes->WriteDurable({.key = key, .meta = meta, .object = object}, deadline));
  }
  return base::Status::Ok();
}

void StackedStore::Promote(const StoreKey& key, const EntryMeta& meta, Slice object, uint64_t epoch) {
  base::MutexLock lock(order_);
  if (!MayRise(key, epoch)) return;
  (void)dram_->Put(key, meta, std::move(object), {},
                   base::kNoDeadline);  // too large or over a quota: no harm
}

bool StackedStore::MayRise(const StoreKey& key, uint64_t epoch) const {
  return epoch_.load() == epoch &&
         std::ranges::none_of(erasures_, [&key](const ErasureScope& erasure) { return erasure.Covers(key); });
}

base::Status StackedStore::Touch(std::span<const StoreKey> keys, base::TimePoint deadline) {
  KVPLANE_RETURN_IF_ERROR(dram_->Touch(keys, deadline));
  if (!lowers_.empty()) touches_->Add(keys);
  return base::Status::Ok();
}

// The thread of touches_.
void StackedStore::TouchLowers(std::span<const StoreKey> keys) {
  for (const auto& lower : lowers_) {
    if (!lower->breakers.reads.Allow(clock_.Now())) {
      ++lower->left_out;
      continue;
    }
    const base::TimePoint budget = base::Clock::System().Now() + lower->tier.lookup_budget;
    Judge(*lower, lower->tier.store->Touch(keys, budget).code(), /*own_budget=*/true);
  }
}

base::Status StackedStore::Pin(const StoreKey& key, base::Duration max_age, base::TimePoint deadline) {
  base::Status pinned = dram_->Pin(key, max_age, deadline);
  if (pinned.code() != base::StatusCode::kNotFound || max_age <= base::Duration::zero()) return pinned;
  for (const auto& lower : lowers_) {
    const base::Status status =
        BringUpPinned(*lower, key, max_age, deadline).Annotate(lower->tier.store->name());
    if (status.ok() || status.code() == base::StatusCode::kResourceExhausted) return status;
    // Of a tier that could not be asked nobody knows whether it has the entry.
    if (status.code() != base::StatusCode::kNotFound) pinned = status;
  }
  return pinned;
}

base::Status StackedStore::BringUpPinned(Lower& lower, const StoreKey& key, base::Duration max_age,
                                         base::TimePoint deadline) {
  if (!lower.breakers.reads.Allow(clock_.Now())) {
    ++lower.left_out;
    return base::Unavailable("it failed lately and is left alone");
  }
  const uint64_t epoch = epoch_.load();
  const base::TimePoint budget = base::Clock::System().Now() + lower.tier.read_budget;
  const base::TimePoint end = std::min(deadline, budget);
  const auto found = lower.tier.store->Lookup(std::span(&key, 1), 0, end);
  Judge(lower, found.status().code(), budget <= deadline);
  KVPLANE_RETURN_IF_ERROR(found.status());
  if (found->empty()) return base::NotFound("no such entry");
  const EntryInfo& info = found->front();
  const ReadRequest whole{.key = key};
  base::Result<Slice> object = std::move(lower.tier.store->Read(std::span(&whole, 1), end).front());
  Judge(lower, object.status().code(), budget <= deadline);
  KVPLANE_RETURN_IF_ERROR(object.status());
  if (object->size() != info.bytes) return base::Unavailable("the entry was replaced while it was read");
  base::MutexLock lock(order_);
  if (!MayRise(key, epoch)) return base::NotFound("entries were erased meanwhile");
  const EntryMeta meta{.prefix_bytes = info.prefix_bytes, .quality = info.quality, .ttl = info.ttl_left};
  KVPLANE_RETURN_IF_ERROR(dram_->Put(key, meta, *std::move(object), {}, deadline));
  return dram_->Pin(key, max_age, deadline);
}

// Called inside of dram_->Put(), so order_ is held.
void StackedStore::WriteAgain(EvictedEntry entry) {
  if (entry.uses == 0) return;
  for (const auto& lower : lowers_) {
    lower->writes->Enqueue({.key = entry.key, .meta = entry.meta, .object = entry.object});
  }
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

base::Status StackedStore::Flush(base::TimePoint deadline) {
  base::Status out = promoter_->Drain(deadline);
  if (out.ok()) out = touches_->Drain(deadline);
  for (const auto& lower : lowers_) {
    base::Status flushed = lower->writes->Drain(deadline);
    if (flushed.ok()) flushed = lower->tier.store->Flush(deadline);
    if (out.ok()) out = flushed.Annotate(lower->tier.store->name());
  }
  return out;
}

StoreStats StackedStore::stats() const {
  const StoreStats memory = dram_->stats();
  StoreStats out;
  out.entries = memory.entries;
  out.bytes = memory.bytes;
  out.capacity_bytes = memory.capacity_bytes;
  out.evictions = memory.evictions;
  out.expirations = memory.expirations;
  out.lookups = counters_.lookups;
  out.lookup_keys = counters_.lookup_keys;
  out.hits = counters_.hits;
  out.reads = counters_.reads;
  out.read_bytes = counters_.read_bytes;
  out.misses = counters_.misses;
  out.puts = counters_.puts;
  out.put_bytes = counters_.put_bytes;
  out.puts_refused = counters_.puts_refused;
  out.corrupt = counters_.corrupt;
  for (const auto& lower : lowers_) out.errors += lower->errors + lower->writes->stats().failed;
  return out;
}

std::vector<TierStats> StackedStore::tier_stats() const {
  std::vector<TierStats> out(1 + lowers_.size());
  out[0].kind = TierKind::kDram;
  out[0].name = dram_->name();
  out[0].store = dram_->stats();
  out[0].hits = out[0].store.hits;
  out[0].reads = out[0].store.reads;
  out[0].read_bytes = out[0].store.read_bytes;
  for (size_t i = 0; i < lowers_.size(); ++i) {
    const Lower& lower = *lowers_[i];
    TierStats& stats = out[i + 1];
    stats.kind = lower.tier.store->kind();
    stats.name = lower.tier.store->name();
    stats.store = lower.tier.store->stats();
    stats.hits = lower.hits;
    stats.reads = lower.reads;
    stats.read_bytes = lower.read_bytes;
    stats.writes = lower.writes->stats();
    stats.errors = lower.errors;
    stats.left_out = lower.left_out;
    stats.breaker_open = lower.breakers.reads.open();
    stats.breaker_opened = lower.breakers.reads.times_opened();
    stats.writes_left_out = lower.breakers.writes.open();
  }
  return out;
}

void StackedStore::Shutdown() {
  shut_down_.store(true);
  if (dram_ != nullptr) dram_->Shutdown();
  promoter_->Shutdown();
  touches_->Shutdown();
  for (const auto& lower : lowers_) {
    lower->writes->Shutdown();
    lower->tier.store->Shutdown();
  }
}

}  // namespace

base::Result<std::unique_ptr<TieredStore>> TieredStore::Create(TieredOptions options) {
  if (options.tiers.size() > ReadDetours::kMaxTiers) {
    return base::InvalidArgument("{} slower tiers; at most {} are possible", options.tiers.size(),
                                 ReadDetours::kMaxTiers);
  }
  for (const SlowTier& tier : options.tiers) {
    if (tier.store == nullptr) return base::InvalidArgument("a tier without a store");
    if (tier.lookup_budget <= base::Duration::zero() || tier.read_budget <= base::Duration::zero() ||
        tier.writes.budget <= base::Duration::zero()) {
      return base::InvalidArgument("tier {}: budgets must be positive", tier.store->name());
    }
  }
  auto store = std::make_unique<StackedStore>(options);
  KVPLANE_RETURN_IF_ERROR(store->Open(options.dram));
  return std::unique_ptr<TieredStore>(std::move(store));
}

}  // namespace kvplane::store

#include "kvplane/store/tiered_store.h"

#include <algorithm>
#include <utility>

#include "kvplane/store/call_checks.h"
#include "kvplane/store/stacked_store.h"

namespace kvplane::store {
namespace {

// A look-up goes through the tiers again when a slower one filled a gap of a faster one. Chains with more
// gaps than this are cut: each round costs the slower tiers a call.
constexpr int kMaxRounds = 4;
// What objects on their way up may take beside memory's own bytes: a part of those, within reason.
constexpr uint64_t kAssemblyParts = 4;
constexpr uint64_t kMaxAssemblyBytes = 256ull << 20;

}  // namespace

StackedStore::StackedStore(TieredOptions& options)
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

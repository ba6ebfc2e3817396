#include "apps/cli/store_metrics.h"

#include <fmt/format.h>

#include <iterator>
#include <span>
#include <string_view>
#include <utility>

#include "kvplane/server/serving_metrics.h"
#include "kvplane/store/dram_store.h"

namespace kvplane::cli {
namespace {

using store::StoreServerCounters;
using store::StoreStats;
using store::TierStats;
using store::WriteBehindStats;

template <typename Owner>
struct Family {
  std::string_view name;
  bool gauge = false;
  std::string_view help;
  uint64_t Owner::* field;
};

constexpr Family<StoreStats> kTierFamilies[] = {
    {"kvplane_store_tier_entries", true, "Objects held", &StoreStats::entries},
    {"kvplane_store_tier_bytes", true, "Bytes held", &StoreStats::bytes},
    {"kvplane_store_tier_capacity_bytes", true, "Bytes it may hold; 0: unknown", &StoreStats::capacity_bytes},
    {"kvplane_store_tier_lookups_total", false, "Look-ups of chains", &StoreStats::lookups},
    {"kvplane_store_tier_lookup_keys_total", false, "Keys looked up", &StoreStats::lookup_keys},
    {"kvplane_store_tier_hits_total", false, "Keys found", &StoreStats::hits},
    {"kvplane_store_tier_reads_total", false, "Ranges delivered", &StoreStats::reads},
    {"kvplane_store_tier_read_bytes_total", false, "Bytes delivered", &StoreStats::read_bytes},
    {"kvplane_store_tier_misses_total", false, "Reads of what was not there", &StoreStats::misses},
    {"kvplane_store_tier_puts_total", false, "Objects taken", &StoreStats::puts},
    {"kvplane_store_tier_put_bytes_total", false, "Bytes taken", &StoreStats::put_bytes},
    {"kvplane_store_tier_puts_refused_total", false, "Objects refused: quota, size, full",
     &StoreStats::puts_refused},
    {"kvplane_store_tier_evictions_total", false, "Objects put out for room", &StoreStats::evictions},
    {"kvplane_store_tier_expirations_total", false, "Objects whose time ran out", &StoreStats::expirations},
    {"kvplane_store_tier_corrupt_total", false, "Objects found damaged", &StoreStats::corrupt},
    {"kvplane_store_tier_errors_total", false, "Failures of the medium or the peer", &StoreStats::errors},
};

constexpr Family<WriteBehindStats> kWriteFamilies[] = {
    {"kvplane_store_tier_queued_bytes", true, "Bytes waiting to be written behind",
     &WriteBehindStats::queued_bytes},
    {"kvplane_store_tier_writes_dropped_total", false, "Writes pushed out of the full queue",
     &WriteBehindStats::dropped},
    {"kvplane_store_tier_writes_failed_total", false, "Writes behind that the tier refused or could not take",
     &WriteBehindStats::failed},
};

// Memory beside the bytes of the tiers.
struct MemoryBeside {
  uint64_t detached = 0;
  uint64_t pinned = 0;
  store::PromoterStats rising;
};

constexpr Family<StoreServerCounters> kServerFamilies[] = {
    {"kvplane_store_connections", true, "Connections open", &StoreServerCounters::connections},
    {"kvplane_store_connections_accepted_total", false, "Connections accepted",
     &StoreServerCounters::connections_total},
    {"kvplane_store_connections_refused_total", false, "Connections refused: too many, or of one address",
     &StoreServerCounters::connections_refused},
    {"kvplane_store_protocol_errors_total", false, "Connections ended for what came over them",
     &StoreServerCounters::protocol_errors},
    {"kvplane_store_requests_total", false, "Requests", &StoreServerCounters::requests},
    {"kvplane_store_requests_failed_total", false, "Requests answered with an error other than a miss",
     &StoreServerCounters::requests_failed},
    {"kvplane_store_received_bytes_total", false, "Bytes received", &StoreServerCounters::bytes_in},
    {"kvplane_store_sent_bytes_total", false, "Bytes sent", &StoreServerCounters::bytes_out},
    {"kvplane_store_incoming_bytes", true, "Room taken by objects on their way in",
     &StoreServerCounters::put_bytes_reserved},
    {"kvplane_store_slow_puts_total", false, "Connections ended because their objects came too slowly",
     &StoreServerCounters::slow_puts},
};

// A label's value: names of tiers hold paths.
std::string Escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

void Begin(std::string& out, std::string_view name, bool gauge, std::string_view help) {
  fmt::format_to(std::back_inserter(out), "# HELP {} {}\n# TYPE {} {}\n", name, help, name,
                 gauge ? "gauge" : "counter");
}

// One value for every tier.
template <typename Value>
void AddTiers(std::string& out, std::string_view name, bool gauge, std::string_view help,
              std::span<const TierStats> tiers, const Value& value) {
  Begin(out, name, gauge, help);
  for (const TierStats& tier : tiers) {
    fmt::format_to(std::back_inserter(out), "{}{{tier=\"{}\",name=\"{}\"}} {}\n", name, Name(tier.kind),
                   Escaped(tier.name), uint64_t{value(tier)});
  }
}

void Add(std::string& out, std::string_view name, bool gauge, std::string_view help, uint64_t value) {
  Begin(out, name, gauge, help);
  fmt::format_to(std::back_inserter(out), "{} {}\n", name, value);
}

MemoryBeside MemoryBesideTiers(const store::StoreStack& stack) {
  if (stack.tiered != nullptr) {
    return {stack.tiered->detached_bytes(), stack.tiered->pinned_bytes(), stack.tiered->promoter_stats()};
  }
  const auto* dram = dynamic_cast<const store::DramStore*>(stack.store.get());
  if (dram == nullptr) return {};
  return {dram->detached_bytes(), dram->pinned_bytes(), {}};
}

}  // namespace

std::vector<TierStats> TiersOf(const store::StoreStack& stack) {
  if (stack.tiered != nullptr) return stack.tiered->tier_stats();
  TierStats only;
  only.kind = stack.store->kind();
  only.name = stack.store->name();
  only.store = stack.store->stats();
  return {std::move(only)};
}

std::string RenderTierMetrics(const store::StoreStack& stack) {
  std::string out;
  const std::vector<TierStats> tiers = TiersOf(stack);
  for (const auto& family : kTierFamilies) {
    AddTiers(out, family.name, family.gauge, family.help, tiers,
             [&](const TierStats& tier) { return tier.store.*family.field; });
  }
  for (const auto& family : kWriteFamilies) {
    AddTiers(out, family.name, family.gauge, family.help, tiers,
             [&](const TierStats& tier) { return tier.writes.*family.field; });
  }
  AddTiers(out, "kvplane_store_tier_left_out", true, "1 while reads leave the tier alone after failures",
           tiers, [](const TierStats& tier) { return tier.breaker_open; });
  AddTiers(out, "kvplane_store_tier_writes_left_out", true, "1 while writes leave it alone after failures",
           tiers, [](const TierStats& tier) { return tier.writes_left_out; });
  AddTiers(out, "kvplane_store_tier_left_out_total", false, "Calls that did without the tier", tiers,
           [](const TierStats& tier) { return tier.left_out; });
  const MemoryBeside memory = MemoryBesideTiers(stack);
  Add(out, "kvplane_store_detached_bytes", true, "Bytes that left memory and are still held by readers",
      memory.detached);
  Add(out, "kvplane_store_pinned_bytes", true, "Bytes in memory that are kept from eviction", memory.pinned);
  Add(out, "kvplane_store_rising_bytes", true, "Bytes of objects on their way up to memory",
      memory.rising.held_bytes);
  Add(out, "kvplane_store_risen_total", false, "Objects that went up to memory", memory.rising.handed_on);
  Add(out, "kvplane_store_rises_given_up_total", false, "Objects on their way up that were let go",
      memory.rising.given_up);
  return out;
}

std::string RenderStoreMetrics(const StoreServerCounters& server, const store::StoreStack& stack) {
  std::string out;
  const server::BuildInfo build = server::CurrentBuild();
  Begin(out, "kvplane_build_info", true, "Always 1; what runs here");
  fmt::format_to(
      std::back_inserter(out),
      "kvplane_build_info{{version=\"{}\",isa=\"{}\",compiler=\"{}\",role=\"store\",model=\"\"}} 1\n",
      build.version, build.isa, Escaped(build.compiler));
  for (const auto& family : kServerFamilies) {
    Add(out, family.name, family.gauge, family.help, server.*family.field);
  }
  return out + RenderTierMetrics(stack);
}

}  // namespace kvplane::cli

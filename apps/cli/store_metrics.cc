#include "apps/cli/store_metrics.h"

#include <fmt/format.h>

#include <iterator>
#include <string_view>

#include "kvplane/server/serving_metrics.h"

namespace kvplane::cli {
namespace {

using store::StoreServerCounters;
using store::StoreStats;
using store::TierStats;

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

constexpr Family<StoreServerCounters> kServerFamilies[] = {
    {"kvplane_store_connections", true, "Connections open", &StoreServerCounters::connections},
    {"kvplane_store_connections_accepted_total", false, "Connections accepted",
     &StoreServerCounters::connections_total},
    {"kvplane_store_connections_refused_total", false, "Connections refused: too many",
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

}  // namespace

std::string RenderStoreMetrics(const StoreServerCounters& server, std::span<const TierStats> tiers) {
  std::string out;
  const server::BuildInfo build = server::CurrentBuild();
  Begin(out, "kvplane_build_info", true, "Always 1; what runs here");
  fmt::format_to(
      std::back_inserter(out),
      "kvplane_build_info{{version=\"{}\",isa=\"{}\",compiler=\"{}\",role=\"store\",model=\"\"}} 1\n",
      build.version, build.isa, Escaped(build.compiler));
  for (const auto& family : kServerFamilies) {
    Begin(out, family.name, family.gauge, family.help);
    fmt::format_to(std::back_inserter(out), "{} {}\n", family.name, server.*family.field);
  }
  const auto add_tier = [&out](std::string_view name, const TierStats& tier, uint64_t value) {
    fmt::format_to(std::back_inserter(out), "{}{{tier=\"{}\",name=\"{}\"}} {}\n", name, Name(tier.kind),
                   Escaped(tier.name), value);
  };
  for (const auto& family : kTierFamilies) {
    Begin(out, family.name, family.gauge, family.help);
    for (const TierStats& tier : tiers) add_tier(family.name, tier, tier.store.*family.field);
  }
  Begin(out, "kvplane_store_tier_queued_bytes", true, "Bytes waiting to be written behind");
  for (const TierStats& tier : tiers) {
    add_tier("kvplane_store_tier_queued_bytes", tier, tier.writes.queued_bytes);
  }
  Begin(out, "kvplane_store_tier_writes_dropped_total", false, "Writes pushed out of the full queue");
  for (const TierStats& tier : tiers) {
    add_tier("kvplane_store_tier_writes_dropped_total", tier, tier.writes.dropped);
  }
  Begin(out, "kvplane_store_tier_left_out", true, "1 while the tier is left alone after failures");
  for (const TierStats& tier : tiers) {
    add_tier("kvplane_store_tier_left_out", tier, tier.breaker_open ? 1 : 0);
  }
  return out;
}

}  // namespace kvplane::cli

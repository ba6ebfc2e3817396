#include "kvplane/server/serving_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <utility>
#include <vector>

#include "kvplane/kernel/isa.h"

namespace kvplane::server {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

// Seconds; fine where interactive targets lie (TTFT 50 ms to 2 s, TPOT 5 to 100 ms).
const prometheus::Histogram::BucketBoundaries kLatencyBuckets = {
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120};

using Labels = std::vector<ClientMetric::Label>;

ClientMetric Sample(MetricType type, Labels labels, double value) {
  ClientMetric metric;
  metric.label = std::move(labels);
  (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  return metric;
}

// A family of the engine's own totals, which a registry's counters could only mirror late.
class FamilyList {
 public:
  explicit FamilyList(std::vector<MetricFamily>& out) : out_(out) {}

  void Add(MetricType type, std::string name, std::string help,
           std::vector<std::pair<Labels, double>> samples) {
    MetricFamily family;
    family.name = std::move(name);
    family.help = std::move(help);
    family.type = type;
    for (auto& [labels, value] : samples) family.metric.push_back(Sample(type, std::move(labels), value));
    out_.push_back(std::move(family));
  }
  void Counter(std::string name, std::string help, double value) {
    Add(MetricType::Counter, std::move(name), std::move(help), {{{}, value}});
  }

 private:
  std::vector<MetricFamily>& out_;
};

void AddEngineTotals(FamilyList& list, const engine::EngineStats& stats) {
  list.Counter("kvplane_prompt_tokens_total", "Prompt tokens processed", double(stats.prompt_tokens));
  list.Counter("kvplane_generated_tokens_total", "Tokens generated", double(stats.generated_tokens));
  list.Counter("kvplane_steps_total", "Steps of the engine", double(stats.steps));
  list.Counter("kvplane_recomputes_total", "Prompts recomputed because their KV did not arrive intact",
               double(stats.recomputes));
  list.Counter("kvplane_tiles_retried_total", "KV tiles sent or asked for again",
               double(stats.tiles_retried));
  list.Add(MetricType::Counter, "kvplane_transfers_total", "KV transfers completed, by direction",
           {{{{"direction", "sent"}}, double(stats.transfers_sent)},
            {{{"direction", "received"}}, double(stats.transfers_received)}});
  list.Counter("kvplane_transfers_failed_total", "KV transfers that failed, both directions",
               double(stats.transfers_failed));
  list.Add(MetricType::Counter, "kvplane_offers_dropped_total",
           "KV offered and never delivered: withdrawn by who asked for it, or not asked for within its lease",
           {{{{"reason", "withdrawn"}}, double(stats.offers_withdrawn)},
            {{{"reason", "lease"}}, double(stats.offers_expired)}});
  list.Add(
      MetricType::Counter, "kvplane_kv_bytes_total",
      "Bytes of KV moved: raw as bf16, wire as sent with all overhead",
      {{{{"form", "raw"}}, double(stats.kv_bytes_raw)}, {{{"form", "wire"}}, double(stats.kv_bytes_wire)}});
  list.Add(MetricType::Counter, "kvplane_engine_requests_total", "Requests given to the engine, by event",
           {{{{"event", "submitted"}}, double(stats.requests_submitted)},
            {{{"event", "finished"}}, double(stats.requests_finished)},
            {{{"event", "failed"}}, double(stats.requests_failed)},
            {{{"event", "cancelled"}}, double(stats.requests_cancelled)}});
  list.Add(MetricType::Counter, "kvplane_engine_seconds_total",
           "Time in steps (wall), and in matrix products and attention (summed over workers)",
           {{{{"part", "step"}}, stats.step_seconds},
            {{{"part", "gemm"}}, stats.gemm_seconds},
            {{{"part", "attention"}}, stats.attention_seconds}});
}

void AddPrefixTotals(FamilyList& list, const engine::PrefixStats& stats) {
  list.Counter("kvplane_store_lookups_total", "Prompts whose prefix was asked for in the store",
               double(stats.lookups));
  list.Counter("kvplane_store_lookup_errors_total", "Lookups that failed or came too late",
               double(stats.lookup_errors));
  list.Add(MetricType::Counter, "kvplane_store_prompt_tokens_total",
           "Prompt tokens by what the store had to do with them, in whole block runs",
           {{{{"event", "asked"}}, double(stats.lookup_tokens)},
            {{{"event", "found"}}, double(stats.hit_tokens)},
            {{{"event", "loaded"}}, double(stats.loaded_tokens)}});
  list.Add(MetricType::Counter, "kvplane_store_loads_total", "Prefixes that were found, by what was decided",
           {{{{"decision", "load"}}, double(stats.loads)},
            {{{"decision", "recompute"}}, double(stats.loads_skipped)}});
  list.Counter("kvplane_store_taken_runs_total",
               "Block runs that were found but computed before the loader had them",
               double(stats.taken_runs));
  list.Add(MetricType::Counter, "kvplane_store_bytes_total", "Coded bytes to and from the store",
           {{{{"direction", "loaded"}}, double(stats.loaded_bytes)},
            {{{"direction", "pushed"}}, double(stats.pushed_bytes)}});
  list.Counter("kvplane_store_pushed_runs_total", "Block runs put into the store", double(stats.pushed_runs));
  std::vector<std::pair<Labels, double>> errors;
  for (size_t i = 0; i < engine::kLoadErrors; ++i) {
    const auto reason = engine::Name(static_cast<engine::LoadError>(i));
    errors.push_back({{{"reason", std::string(reason)}}, double(stats.run_errors[i])});
  }
  list.Add(MetricType::Counter, "kvplane_store_load_errors_total",
           "Block runs that were found but could not be used", std::move(errors));
  std::vector<std::pair<Labels, double>> drops;
  for (size_t i = 0; i < engine::kPushDrops; ++i) {
    const auto reason = engine::Name(static_cast<engine::PushDrop>(i));
    drops.push_back({{{"reason", std::string(reason)}}, double(stats.push_drops[i])});
  }
  list.Add(MetricType::Counter, "kvplane_store_push_drops_total",
           "Block runs that were not put into the store", std::move(drops));
  list.Add(MetricType::Counter, "kvplane_store_overlapped_steps_total",
           "Steps computed while their prefix was still landing, by how they ended",
           {{{{"end", "done"}}, double(stats.overlapped_steps)},
            {{{"end", "stalled"}}, double(stats.stalled_steps)}});
}

void AddEngineGauges(FamilyList& list, const engine::EngineStats& stats, size_t connections) {
  list.Add(MetricType::Gauge, "kvplane_requests", "Requests in the engine, by state",
           {{{{"state", "queued"}}, double(stats.queued)},
            {{{"state", "running"}}, double(stats.running)},
            {{{"state", "transferring"}}, double(stats.transferring)},
            {{{"state", "loading"}}, double(stats.loading)}});
  list.Add(MetricType::Gauge, "kvplane_cache_blocks", "Blocks of the paged KV cache, by state",
           {{{{"state", "used"}}, double(stats.blocks_used)},
            {{{"state", "free"}}, double(stats.blocks_total) - double(stats.blocks_used)}});
  list.Add(MetricType::Gauge, "kvplane_http_connections", "Open HTTP connections",
           {{{}, double(connections)}});
}

}  // namespace

BuildInfo CurrentBuild() { return {KVPLANE_VERSION, kernel::Name(kernel::ActiveIsa()), __VERSION__}; }

struct ServingMetrics::State {
  State(std::string_view role, std::string_view model)
      : http(prometheus::BuildCounter()
                 .Name("kvplane_http_requests_total")
                 .Help("HTTP requests answered, by route and status")
                 .Register(registry)),
        generations(prometheus::BuildCounter()
                        .Name("kvplane_generations_total")
                        .Help("Generations ended, by outcome")
                        .Register(registry)),
        ttft(AddHistogram("kvplane_ttft_seconds", "Submit to first token")),
        tpot(AddHistogram("kvplane_tpot_seconds", "Time per output token after the first")),
        jct(AddHistogram("kvplane_jct_seconds", "Submit to last token")) {
    const BuildInfo build = CurrentBuild();
    prometheus::BuildGauge()
        .Name("kvplane_build_info")
        .Help("Always 1; what runs here")
        .Register(registry)
        .Add({{"version", std::string(build.version)},
              {"isa", std::string(build.isa)},
              {"compiler", std::string(build.compiler)},
              {"role", std::string(role)},
              {"model", std::string(model)}})
        .Set(1);
  }

  prometheus::Histogram& AddHistogram(const char* name, const char* help) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add({}, kLatencyBuckets);
  }

  prometheus::Registry registry;
  prometheus::Family<prometheus::Counter>& http;
  prometheus::Family<prometheus::Counter>& generations;
  prometheus::Histogram& ttft;
  prometheus::Histogram& tpot;
  prometheus::Histogram& jct;
};

ServingMetrics::ServingMetrics(std::string_view role, std::string_view model)
    : state_(std::make_unique<State>(role, model)) {}
ServingMetrics::~ServingMetrics() = default;

void ServingMetrics::CountHttp(std::string_view route, int status) {
  state_->http.Add({{"route", std::string(route)}, {"status", std::to_string(status)}}).Increment();
}

void ServingMetrics::CountGeneration(std::string_view outcome, uint32_t tokens, base::Duration ttft,
                                     base::Duration total) {
  state_->generations.Add({{"outcome", std::string(outcome)}}).Increment();
  if (tokens == 0) return;
  state_->ttft.Observe(base::ToSeconds(ttft));
  state_->jct.Observe(base::ToSeconds(total));
  if (tokens > 1) state_->tpot.Observe(base::ToSeconds(total - ttft) / (tokens - 1));
}

std::string ServingMetrics::Render(const engine::EngineStats& stats, size_t connections) const {
  std::vector<MetricFamily> families = state_->registry.Collect();
  FamilyList list(families);
  AddEngineTotals(list, stats);
  AddPrefixTotals(list, stats.prefix);
  AddEngineGauges(list, stats, connections);
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace kvplane::server

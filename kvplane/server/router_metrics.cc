#include "kvplane/server/router_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <utility>
#include <vector>

#include "kvplane/server/serving_metrics.h"

namespace kvplane::server {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

const prometheus::Histogram::BucketBoundaries kLatencyBuckets = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                                                 1,     2.5,  5,     10,   25,  60,   120};

MetricFamily GaugeFamily(std::string name, std::string help) {
  MetricFamily family;
  family.name = std::move(name);
  family.help = std::move(help);
  family.type = MetricType::Gauge;
  return family;
}

void AddGauge(MetricFamily& family, std::vector<ClientMetric::Label> labels, double value) {
  ClientMetric metric;
  metric.label = std::move(labels);
  metric.gauge.value = value;
  family.metric.push_back(std::move(metric));
}

}  // namespace

struct RouterMetrics::State {
  State()
      : http(AddCounter("kvplane_http_requests_total", "HTTP requests answered, by route and status")),
        retries(AddCounter("kvplane_router_retries_total", "Attempts given up, by reason")),
        withdrawals(AddCounter("kvplane_router_withdrawals_total",
                               "KV withdrawn from prefill nodes, by what they found")),
        placements(AddCounter("kvplane_router_placements_total",
                              "Attempts started: split over two nodes, or plain on one")),
        prompt_bytes(AddCounter("kvplane_router_prompt_bytes_total",
                                "Prompt bytes placed, by whether the node had got their prefix before")),
        first_byte(AddHistogram("kvplane_router_first_byte_seconds", "Request to first byte of the answer")),
        total(AddHistogram("kvplane_router_total_seconds", "Request to end of the answer")) {
    for (const char* result : {"withdrawn", "aborted", "ended", "unknown", "failed"}) {
      withdrawals.Add({{"result", result}});
    }
    const BuildInfo build = CurrentBuild();
    prometheus::BuildGauge()
        .Name("kvplane_build_info")
        .Help("Always 1; what runs here")
        .Register(registry)
        .Add({{"version", std::string(build.version)},
              {"isa", std::string(build.isa)},
              {"compiler", std::string(build.compiler)},
              {"role", "router"},
              {"model", ""}})
        .Set(1);
  }

  prometheus::Family<prometheus::Counter>& AddCounter(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
  }
  prometheus::Histogram& AddHistogram(const char* name, const char* help) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add({}, kLatencyBuckets);
  }

  prometheus::Registry registry;
  prometheus::Family<prometheus::Counter>& http;
  prometheus::Family<prometheus::Counter>& retries;
  prometheus::Family<prometheus::Counter>& withdrawals;
  prometheus::Family<prometheus::Counter>& placements;
  prometheus::Family<prometheus::Counter>& prompt_bytes;
  prometheus::Histogram& first_byte;
  prometheus::Histogram& total;
};

RouterMetrics::RouterMetrics() : state_(std::make_unique<State>()) {}
RouterMetrics::~RouterMetrics() = default;

void RouterMetrics::CountHttp(std::string_view route, int status) {
  state_->http.Add({{"route", std::string(route)}, {"status", std::to_string(status)}}).Increment();
}

void RouterMetrics::CountRetry(std::string_view reason) {
  state_->retries.Add({{"reason", std::string(reason)}}).Increment();
}

void RouterMetrics::CountWithdrawal(std::string_view result) {
  state_->withdrawals.Add({{"result", std::string(result)}}).Increment();
}

void RouterMetrics::CountPlacement(std::string_view placement) {
  state_->placements.Add({{"placement", std::string(placement)}}).Increment();
}

void RouterMetrics::CountPrompt(uint64_t bytes, uint64_t expected_cached) {
  state_->prompt_bytes.Add({{"prefix", "known"}}).Increment(static_cast<double>(expected_cached));
  state_->prompt_bytes.Add({{"prefix", "new"}}).Increment(static_cast<double>(bytes - expected_cached));
}

void RouterMetrics::ObserveAnswer(base::Duration first_byte, base::Duration total) {
  state_->first_byte.Observe(base::ToSeconds(first_byte));
  state_->total.Observe(base::ToSeconds(total));
}

std::string RouterMetrics::Render(std::span<const NodeSample> nodes, size_t connections) const {
  std::vector<MetricFamily> families = state_->registry.Collect();
  MetricFamily up = GaugeFamily("kvplane_router_node_up", "1 when the node answers its health checks");
  MetricFamily load = GaugeFamily("kvplane_router_node_requests", "Requests the router has open on the node");
  for (const NodeSample& node : nodes) {
    const std::vector<ClientMetric::Label> labels = {{"node", node.address},
                                                     {"role", std::string(node.role)}};
    AddGauge(up, labels, node.healthy ? 1 : 0);
    AddGauge(load, labels, node.outstanding_requests);
  }
  MetricFamily open = GaugeFamily("kvplane_http_connections", "Open HTTP connections of clients");
  AddGauge(open, {}, static_cast<double>(connections));
  families.push_back(std::move(up));
  families.push_back(std::move(load));
  families.push_back(std::move(open));
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace kvplane::server

#include "kvplane/stats/slo.h"

namespace kvplane::stats {

base::Duration Tpot(const RequestLatency& latency) {
  if (latency.tokens < 2) return base::Duration{};
  return latency.after_first / (latency.tokens - 1);
}

void SloAccount::AddServed(const RequestLatency& latency, const Slo& slo) {
  const bool ttft_met = latency.ttft <= slo.ttft;
  const bool tpot_met = Tpot(latency) <= slo.tpot;
  ++requests_;
  if (!ttft_met) ++ttft_violations_;
  if (!tpot_met) ++tpot_violations_;
  if (ttft_met && tpot_met) ++met_;
}

void SloAccount::AddFailed() {
  ++requests_;
  ++ttft_violations_;
  ++tpot_violations_;
}

double SloAccount::attainment() const {
  return requests_ == 0 ? 1.0 : static_cast<double>(met_) / static_cast<double>(requests_);
}

}  // namespace kvplane::stats

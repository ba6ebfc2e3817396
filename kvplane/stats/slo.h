// Service-level objectives and the accounting of who met them. Shared by sched, control, sim and server so
// that all of them mean the same thing.
//
// TTFT is from submission to the first token. TPOT is the mean time per token after the first: (end - first
// token) / (tokens - 1); a request with one token has none and meets any TPOT objective.
//
// Thread safety: none; the owner locks.
#pragma once

#include <cstdint>

#include "kvplane/base/clock.h"

namespace kvplane::stats {

struct Slo {
  base::Duration ttft = base::Duration::max();  // max: no objective
  base::Duration tpot = base::Duration::max();
};

// What one finished request experienced.
struct RequestLatency {
  base::Duration ttft{};
  base::Duration after_first{};  // first token to last token
  uint32_t tokens = 0;           // generated, >= 1
};

base::Duration Tpot(const RequestLatency& latency);  // zero when only one token was generated

class SloAccount {
 public:
  // A request that produced its tokens; it meets its SLO when both objectives are met.
  void AddServed(const RequestLatency& latency, const Slo& slo);
  // A request that failed or was refused: a violation of both, whatever its SLO.
  void AddFailed();

  uint64_t requests() const { return requests_; }
  uint64_t met() const { return met_; }
  uint64_t ttft_violations() const { return ttft_violations_; }
  uint64_t tpot_violations() const { return tpot_violations_; }
  double attainment() const;  // met / requests in [0, 1]; 1 when there were none

 private:
  uint64_t requests_ = 0;
  uint64_t met_ = 0;
  uint64_t ttft_violations_ = 0;
  uint64_t tpot_violations_ = 0;
};

}  // namespace kvplane::stats

// Decide: the strategy that codes one transfer's KV, and why. A pure function of plain values, so that every
// decision can be replayed from its inputs; controllers that weigh link, load and SLO take its place behind
// the same shape.
//
// Today's rule: what the request asks for, else the node's default. A request that forbids lossy coding never
// gets it: asking for both is an error, a lossy default gives way to `off`.
#pragma once

#include <optional>
#include <string>

#include "kvplane/base/status.h"
#include "kvplane/codec/strategy.h"

namespace kvplane::control {

struct PlanInput {
  std::optional<codec::Strategy> requested;
  codec::Strategy node_default;
  bool accept_lossy = true;
};

struct Plan {
  codec::Strategy strategy;
  std::string reason;  // for the decision log: "requested", "node default", ...
};

// kInvalidArgument: the requested strategy is lossy and the request forbids it.
base::Result<Plan> Decide(const PlanInput& input);

}  // namespace kvplane::control

#include "kvplane/control/plan.h"

#include <fmt/core.h>

namespace kvplane::control {

base::Result<Plan> Decide(const PlanInput& input) {
  if (input.requested) {
    if (input.requested->lossy() && !input.accept_lossy) {
      return base::InvalidArgument("the request forbids lossy KV but asks for strategy '{}'",
                                   input.requested->ToString());
    }
    return Plan{*input.requested, "requested"};
  }
  if (input.node_default.lossy() && !input.accept_lossy) {
    return Plan{codec::Strategy(),
                fmt::format("the request forbids lossy KV and the node default '{}' is lossy",
                            input.node_default.ToString())};
  }
  return Plan{input.node_default, "node default"};
}

}  // namespace kvplane::control

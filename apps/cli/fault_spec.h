// Parses --kv-fault: damage to what a node sends, for tests with real processes.
#pragma once

#include <string_view>

#include "kvplane/base/status.h"
#include "kvplane/transport/testing/faulty_transport.h"

namespace kvplane::cli {

// Comma-separated key=value, all optional: seed, flip (probability per written piece), flip-min (smallest
// piece in bytes), delay (probability), delay-ms, drop, truncate, stall (after so many bytes of a stream).
// docs/testing.md.
base::Result<transport::FaultPlan> ParseFaultPlan(std::string_view text);

}  // namespace kvplane::cli

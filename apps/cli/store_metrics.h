// What the store of a process counts, as Prometheus text (docs/store.md lists the families).
//
// Thread safety: pure functions of what the store says at the moment.
#pragma once

#include <string>
#include <vector>

#include "kvplane/store/create_store.h"
#include "kvplane/store/remote/store_server.h"
#include "kvplane/store/tiered_store.h"

namespace kvplane::cli {

// Fastest first; of a store that is no stack, that one.
std::vector<store::TierStats> TiersOf(const store::StoreStack& stack);

// The tiers, and the memory that is in use beside them.
std::string RenderTierMetrics(const store::StoreStack& stack);

// The same behind what a store server counts.
std::string RenderStoreMetrics(const store::StoreServerCounters& server, const store::StoreStack& stack);

}  // namespace kvplane::cli

// What a store server counts, as Prometheus text (docs/store.md lists the families).
//
// Thread safety: pure function.
#pragma once

#include <span>
#include <string>

#include "kvplane/store/remote/store_server.h"
#include "kvplane/store/tiered_store.h"

namespace kvplane::cli {

// `tiers`: fastest first.
std::string RenderStoreMetrics(const store::StoreServerCounters& server,
                               std::span<const store::TierStats> tiers);

}  // namespace kvplane::cli

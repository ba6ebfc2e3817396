// The series of pictures that show strategies: one per family, so that colours mean the same in all of them.
//
// Thread safety: pure functions.
#pragma once

#include <vector>

#include "apps/cli/plot/scatter_plot.h"
#include "apps/cli/strategy_list.h"

namespace kvplane::cli {

// Empty series, [families]; the points of a strategy go to the one at static_cast<size_t>(family).
std::vector<PlotSeries> FamilySeries();

}  // namespace kvplane::cli

#include "apps/cli/plot/strategy_series.h"

#include <string>

namespace kvplane::cli {

std::vector<PlotSeries> FamilySeries() {
  constexpr StrategyFamily kFamilies[] = {StrategyFamily::kEntropyCoded, StrategyFamily::kPublished,
                                          StrategyFamily::kTransformed, StrategyFamily::kFixedWidth,
                                          StrategyFamily::kLossless};
  static_assert(std::size(kFamilies) <= kMaxPlotSeries);
  std::vector<PlotSeries> series;
  for (const StrategyFamily family : kFamilies) series.push_back({std::string(Name(family)), {}});
  return series;
}

}  // namespace kvplane::cli

#include "kvplane/transfer/link_turn.h"

#include <algorithm>
#include <cmath>

namespace kvplane::transfer {

base::TimePoint TurnOf(const LinkDemand& demand, double seconds_per_byte) {
  const base::Duration patience = std::max(demand.deadline - demand.asked, base::Duration::zero());
  const double stretched_s = kTurnStretch * static_cast<double>(demand.bytes) * seconds_per_byte;
  // Compared as seconds: a huge transfer on a slow link is beyond what a Duration can say.
  const double half_s = base::ToSeconds(patience) / 2;
  return demand.asked + (stretched_s < half_s ? base::FromSeconds(stretched_s) : patience / 2);
}

void Pace::Add(uint64_t bytes, double seconds) {
  const double added = static_cast<double>(bytes);
  const double kept = std::exp(-added / kMemoryBytes);
  bytes_ = bytes_ * kept + added;
  seconds_ = seconds_ * kept + seconds;
}

}  // namespace kvplane::transfer

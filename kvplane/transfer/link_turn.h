// Whose tiles go first where several transfers share a link.
//
// Every transfer has a turn, a point in time, and the earlier turn goes first. It is when the transfer was
// asked for plus kTurnStretch times what it would take alone. So
// - a short one overtakes a long one that is under way: it is not stuck behind it;
// - transfers of one size keep their order;
// - nobody starves: what is asked for after a transfer's turn never overtakes it, however short it is, and
//   the turn is at most half way to the transfer's own deadline, however wrong the pace was that it was made
//   with.
// Earliest deadline first with these turns as deadlines keeps every transfer's stretch (its time over what it
// takes alone) below kTurnStretch where any order does: M. Bender, S. Chakrabarti, S. Muthukrishnan, "Flow
// and stretch metrics for scheduling continuous job streams", SODA 1998.
//
// The deadline at which a transfer has failed is no turn: most requests have the same patience, so that order
// would be the order of arrival. Where it is near it makes the turn earlier.
//
// Thread safety: TurnOf() is pure; Pace is a value.
#pragma once

#include <cstdint>

#include "kvplane/base/clock.h"

namespace kvplane::transfer {

// How much longer than alone a transfer may take before others stop overtaking it. Less treats long ones
// better, more short ones: with 8 a short one passes a queue of eight equal long ones.
constexpr double kTurnStretch = 8;

struct LinkDemand {
  base::TimePoint asked;     // when both ends were there and it could begin
  base::TimePoint deadline;  // when it fails; after `asked`
  uint64_t bytes = 0;        // of KV, before it is coded: sizes are compared with each other
};

base::TimePoint TurnOf(const LinkDemand& demand, double seconds_per_byte);

// Seconds per byte of late, as a mean over the last kMemoryBytes or so.
class Pace {
 public:
  // Starts as if `bytes` had taken `seconds`; zero bytes: as if nothing took any time.
  Pace(uint64_t bytes, double seconds) : bytes_(static_cast<double>(bytes)), seconds_(seconds) {}

  void Add(uint64_t bytes, double seconds);
  double seconds_per_byte() const { return bytes_ > 0 ? seconds_ / bytes_ : 0; }

 private:
  static constexpr double kMemoryBytes = 4 << 20;

  double bytes_;  // both with what is older counting less
  double seconds_;
};

}  // namespace kvplane::transfer

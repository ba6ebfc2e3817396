// What a store takes for puts, look-ups and reads, measured beside a plain copy of the same bytes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/store/store.h"

namespace kvplane::cli {

struct StoreRaceOptions {
  uint64_t object_bytes = 8 << 20;
  uint32_t objects = 8;  // one chain: put one by one, found in one look-up
  uint32_t layers = 32;  // ranges of equal size that a ranged reader asks for, one object at a time
  bool durable = false;
};

// Seconds per call, or per object for `read`, `layers`, `copy`. One entry per round and object.
struct StoreTimes {
  std::vector<double> put;
  std::vector<double> lookup;       // of the whole chain
  std::vector<double> read;         // whole object, in one range, copied out
  std::vector<double> first_layer;  // from asking to the first layer copied out
  std::vector<double> layers;       // whole object, one call per layer, copied out
};

// Puts the chain of `round`, finds it, reads it in both ways (every byte is copied out, as a decoder would
// read it) and erases it. What is missing or not what was put is kCorrupt: times of a store that loses
// objects mean nothing.
base::Status RaceOnce(store::Store& store, const StoreRaceOptions& options, uint64_t round,
                      StoreTimes& times);

// The yardstick: the objects of a round copied from memory to memory; seconds per object.
void CopyOnce(const StoreRaceOptions& options, uint64_t round, std::vector<double>& seconds);

}  // namespace kvplane::cli

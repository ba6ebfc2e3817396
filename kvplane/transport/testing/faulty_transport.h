// Decorator that breaks things on purpose, reproducibly: for tests of whatever stands on a Transport.
//
// Faults happen on the writing side of every stream made through the instance, connected or accepted. Random
// choices come from one generator per stream, split from the seed in the order in which streams are made.
//
// Thread safety: as in stream.h; FaultCounts from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kvplane/transport/stream.h"

namespace kvplane::transport {

struct FaultPlan {
  uint64_t seed = 1;

  // Each piece of a Write() of at least `flip_min_piece_bytes` gets one flipped bit with this probability.
  // The bound lets a test spare small pieces (frame headers) and hit large ones (payloads).
  double flip_probability = 0;
  size_t flip_min_piece_bytes = 1;

  // Each Write() is delayed with this probability, uniformly up to `max_delay`.
  double delay_probability = 0;
  base::Duration max_delay{};

  static constexpr uint64_t kNever = ~uint64_t{0};
  // Counted per stream, in bytes written; at most one of the three. Drop: the stream is shut down in the
  // middle of the write that passes the count. Truncate: what follows is swallowed, the writer is told it
  // went well. Stall: the write that passes the count blocks until its deadline or Shutdown().
  uint64_t drop_after_bytes = kNever;
  uint64_t truncate_after_bytes = kNever;
  uint64_t stall_after_bytes = kNever;
};

struct FaultCounts {
  uint64_t streams = 0;
  uint64_t bits_flipped = 0;
  uint64_t writes_delayed = 0;
  uint64_t drops = 0;
  uint64_t stalls = 0;
};

class FaultyTransport : public Transport {
 public:
  static std::unique_ptr<FaultyTransport> Create(std::shared_ptr<Transport> inner, const FaultPlan& plan);
  virtual FaultCounts counts() const = 0;
};

}  // namespace kvplane::transport

// Decorator that makes a transport behave like one slow link: rate one-way latency and jitter, without
// network privileges.
//
// All streams of one instance, whether connected or accepted through it, write through one token bucket: the
// instance is the link. Give each node its own instance to shape each direction by itself. Large writes are
// cut into chunks of about a millisecond, so that pacing is smooth and a deadline, a Shutdown() or a change
// of rate takes effect within one chunk. Bytes count as the application's; there are no packet headers here.
//
// The bucket (a token bucket with debt): a chunk may leave when the bucket is not negative and then takes its
// size out of it; the bucket fills at the rate. Unused tokens up to `burst_bytes` are kept while the link is
// idle; while somebody waits nothing is lost, so oversleeping does not cost rate.
//
// Latency: a chunk is handed to the inner stream `latency` after it left the bucket, by one thread per
// stream (only when there is any). With `jitter` each chunk takes up to so much longer, by a generator per
// stream split from the seed in the order in which streams are made; chunks never overtake each other, so a
// late one holds up those behind it, as a queue in the network would. Shutdown() drops what is still under
// way, like a cut cable; destroying the stream instead lets it arrive.
//
// Thread safety: SetRate() and rate() from any thread; streams as in stream.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>

#include "kvplane/transport/stream.h"

namespace kvplane::transport {

constexpr double kUnlimitedRate = std::numeric_limits<double>::infinity();

struct ShapedOptions {
  double bits_per_second = kUnlimitedRate;  // 0 stalls the link until SetRate()
  size_t burst_bytes = 256'000;
  base::Duration latency{};  // one way; at most 10 s
  base::Duration jitter{};   // each chunk: uniform in [0, jitter] on top; at most 10 s
  uint64_t seed = 1;         // of the jitter
};

class ShapedTransport : public Transport {
 public:
  // kInvalidArgument: negative or NaN rate, negative or absurd latency or jitter.
  static base::Result<std::unique_ptr<ShapedTransport>> Create(std::shared_ptr<Transport> inner,
                                                               const ShapedOptions& options);
  virtual void SetRate(double bits_per_second) = 0;  // negative or NaN counts as 0
  virtual double rate() const = 0;                   // bits per second
};

}  // namespace kvplane::transport

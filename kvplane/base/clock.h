// Clock: the only source of time. Policies and tests run on a ManualClock; nothing else may call
// std::chrono clocks or clock_gettime.
//
// Thread safety: all members may be called from any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace kvplane::base {

using Duration = std::chrono::nanoseconds;

// A point on a clock's own monotonic axis; only differences on the same clock mean anything.
using TimePoint = std::chrono::time_point<std::chrono::steady_clock, Duration>;

constexpr TimePoint kNoDeadline = TimePoint::max();

constexpr double ToSeconds(Duration d) { return std::chrono::duration<double>(d).count(); }
constexpr double ToMillis(Duration d) { return ToSeconds(d) * 1e3; }
constexpr int64_t ToMicros(Duration d) {
  return std::chrono::duration_cast<std::chrono::microseconds>(d).count();
}
constexpr Duration FromSeconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint Now() const = 0;
  // Blocks the caller until `when` on this clock. A ManualClock jumps there instead.
  virtual void SleepUntil(TimePoint when) = 0;
  // Seconds since the Unix epoch, for log lines and API fields; never for durations.
  virtual double UnixSeconds() const = 0;

  // The process-wide monotonic clock of the operating system.
  static Clock& System();
};

// A clock that moves only when told to. Starts at 1 s so that TimePoint{} lies in the past.
class ManualClock final : public Clock {
 public:
  TimePoint Now() const override { return TimePoint(Duration(now_ns_.load())); }
  void SleepUntil(TimePoint when) override;
  double UnixSeconds() const override { return ToSeconds(Now().time_since_epoch()); }
  void Advance(Duration by) { now_ns_.fetch_add(by.count()); }

 private:
  std::atomic<int64_t> now_ns_{1'000'000'000};
};

// CPU time the calling thread has used; only differences mean anything. Beside wall time it tells what the
// code costs on a machine that other work shares.
Duration ThreadCpuTime();

// The remaining time to `deadline` on `clock`, clamped to [0, limit].
Duration TimeLeft(const Clock& clock, TimePoint deadline, Duration limit = std::chrono::hours(24));

}  // namespace kvplane::base

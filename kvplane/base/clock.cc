#include "kvplane/base/clock.h"

#include <time.h>  // clock_gettime

#include <algorithm>
#include <thread>

namespace kvplane::base {
namespace {

class SystemClock final : public Clock {
 public:
  TimePoint Now() const override {
    return std::chrono::time_point_cast<Duration>(std::chrono::steady_clock::now());
  }
  void SleepUntil(TimePoint when) override { std::this_thread::sleep_until(when); }
  double UnixSeconds() const override {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  }
};

}  // namespace

Clock& Clock::System() {
  static SystemClock clock;
  return clock;
}

void ManualClock::SleepUntil(TimePoint when) {
  const int64_t target = when.time_since_epoch().count();
  int64_t now = now_ns_.load();
  while (now < target && !now_ns_.compare_exchange_weak(now, target)) {
  }
}

Duration ThreadCpuTime() {
  timespec used{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
}

Duration TimeLeft(const Clock& clock, TimePoint deadline, Duration limit) {
  if (deadline == kNoDeadline) return limit;
  return std::clamp<Duration>(deadline - clock.Now(), Duration::zero(), limit);
}

}  // namespace kvplane::base

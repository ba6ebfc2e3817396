#include "kvplane/transport/refusal_log.h"

#include "kvplane/base/log.h"

namespace kvplane::transport {
namespace {

constexpr base::Duration kPause = std::chrono::seconds(1);

}  // namespace

void RefusalLog::Note(const base::Status& status) {
  base::MutexLock lock(mutex_);
  const base::TimePoint now = base::Clock::System().Now();
  if (now < quiet_until_) {
    ++left_out_;
    return;
  }
  quiet_until_ = now + kPause;
  const std::string others = left_out_ == 0 ? "" : fmt::format(" (and {} more before)", left_out_);
  left_out_ = 0;
  base::Log(base::LogLevel::kWarn, "refused a connection: {}{}", status.message(), others);
}

}  // namespace kvplane::transport

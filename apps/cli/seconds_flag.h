// SecondsFlag: a flag's number of seconds as a Duration.
//
// Why: a double that is not a number, or too large for nanoseconds, has no Duration; converting it is
// undefined. kInvalidArgument names the flag and the legal range.
//
// Thread safety: pure.
#pragma once

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"

namespace kvplane::cli {

// Longer than anything here should wait, and far from overflow.
constexpr double kMaxFlagSeconds = 7 * 86400.0;

inline base::Result<base::Duration> SecondsFlag(const char* flag, double value, bool zero_allowed = false) {
  const bool low = zero_allowed ? value >= 0 : value > 0;  // false for NaN
  if (!low || value > kMaxFlagSeconds) {
    return base::InvalidArgument("{} {} is not in {}0, {}]", flag, value, zero_allowed ? '[' : '(',
                                 kMaxFlagSeconds);
  }
  return base::FromSeconds(value);
}

}  // namespace kvplane::cli

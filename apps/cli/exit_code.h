// Exit codes of every verb (README.md, "Use it"): scripts may rely on them.
#pragma once

#include "kvplane/base/status.h"

namespace kvplane::cli {

constexpr int kExitOk = 0;
constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
constexpr int kExitCorrupt = 3;
constexpr int kExitUnavailable = 4;
constexpr int kExitNotDecoded = 5;  // of `verify`: every checksum matches, the profile to decode is not there

constexpr int ExitCodeFor(base::StatusCode code) {
  switch (code) {
    case base::StatusCode::kOk:
      return kExitOk;
    case base::StatusCode::kInvalidArgument:
      return kExitUsage;
    case base::StatusCode::kCorrupt:
      return kExitCorrupt;
    case base::StatusCode::kNotFound:
    case base::StatusCode::kUnavailable:
    case base::StatusCode::kResourceExhausted:
    case base::StatusCode::kPermissionDenied:
      return kExitUnavailable;
    case base::StatusCode::kDeadlineExceeded:
    case base::StatusCode::kCancelled:
    case base::StatusCode::kUnimplemented:
    case base::StatusCode::kFailedPrecondition:
    case base::StatusCode::kInternal:
      return kExitFailed;
  }
  return kExitFailed;
}

}  // namespace kvplane::cli

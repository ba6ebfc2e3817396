// Log sink: structured lines to stderr, one JSON object per line or plain text.
//
// Libraries log only through Log(); only the CLI configures it. Values are escaped by the JSON writer,
// never by a pattern (spdlog's %v is not escaped).
//
// Thread safety: all functions may be called from any thread.
#pragma once

#include <fmt/core.h>

#include <string>
#include <string_view>
#include <utility>

#include "kvplane/base/status.h"

namespace kvplane::base {

enum class LogLevel { kTrace, kDebug, kInfo, kWarn, kError, kOff };

Result<LogLevel> ParseLogLevel(std::string_view text);

struct LogConfig {
  LogLevel level = LogLevel::kInfo;
  bool json = false;
  std::string component;  // "prefill", "decode", "route": repeated in every line
};

// Replaces the sink's configuration. Called once, before threads start.
void ConfigureLog(const LogConfig& config);
bool LogEnabled(LogLevel level);
void LogMessage(LogLevel level, std::string_view message);

template <typename... Args>
void Log(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  if (LogEnabled(level)) LogMessage(level, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace kvplane::base

#include "kvplane/base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <array>
#include <memory>

#include "kvplane/base/clock.h"

namespace kvplane::base {
namespace {

constexpr std::array<std::string_view, 6> kLevelNames = {"trace", "debug", "info", "warn", "error", "off"};

struct Sink {
  LogConfig config;
  std::shared_ptr<spdlog::logger> logger;

  Sink() {
    logger = std::make_shared<spdlog::logger>("kvplane", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    logger->set_level(spdlog::level::trace);
    logger->set_pattern("%v");
  }
};

Sink& GlobalSink() {
  static Sink sink;
  return sink;
}

std::string EscapeJson(std::string_view text) {
  std::string out;
  out.reserve(text.size() + 2);
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          out += c;
        }
    }
  }
  return out;
}

}  // namespace

Result<LogLevel> ParseLogLevel(std::string_view text) {
  for (size_t i = 0; i < kLevelNames.size(); ++i) {
    if (kLevelNames[i] == text) return static_cast<LogLevel>(i);
  }
  return InvalidArgument("unknown log level '{}': use trace, debug, info, warn, error or off", text);
}

void ConfigureLog(const LogConfig& config) { GlobalSink().config = config; }

bool LogEnabled(LogLevel level) { return level >= GlobalSink().config.level && level != LogLevel::kOff; }

void LogMessage(LogLevel level, std::string_view message) {
  Sink& sink = GlobalSink();
  const double now = Clock::System().UnixSeconds();
  const std::string_view name = kLevelNames[static_cast<size_t>(level)];
  if (sink.config.json) {
    sink.logger->log(spdlog::level::info,
                     R"({{"unix_s":{:.6f},"level":"{}","component":"{}","message":"{}"}})", now, name,
                     EscapeJson(sink.config.component), EscapeJson(message));
  } else {
    sink.logger->log(spdlog::level::info, "{:.3f} {} {}{}{}", now, name, sink.config.component,
                     sink.config.component.empty() ? "" : ": ", message);
  }
}

}  // namespace kvplane::base

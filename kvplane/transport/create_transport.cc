#include "kvplane/transport/create_transport.h"

#include <charconv>
#include <utility>

#include "kvplane/base/units.h"
#include "kvplane/transport/inproc_transport.h"
#include "kvplane/transport/shaped_transport.h"
#include "kvplane/transport/tcp_transport.h"
#include "kvplane/transport/ucx_transport.h"

namespace kvplane::transport {
namespace {

// Nested decorators in one spec; more is a mistake, not a wish.
constexpr int kMaxDepth = 4;

constexpr std::string_view kShaped = "shaped(";

base::Result<base::Duration> ParseMicroseconds(std::string_view key, std::string_view value) {
  uint32_t microseconds = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), microseconds);
  if (error != std::errc() || end != value.data() + value.size()) {
    return base::InvalidArgument("{} \"{}\" is not a whole number of microseconds", key, value);
  }
  return base::Duration(std::chrono::microseconds(microseconds));
}

base::Status SetShapedParameter(std::string_view text, ShapedOptions& options) {
  const size_t equals = text.find('=');
  const std::string_view key = text.substr(0, equals);
  const std::string_view value = equals == std::string_view::npos ? "" : text.substr(equals + 1);
  if (key == "rate") {
    KVPLANE_ASSIGN_OR_RETURN(options.bits_per_second, base::ParseBitsPerSecond(value));
  } else if (key == "burst") {
    KVPLANE_ASSIGN_OR_RETURN(options.burst_bytes, base::ParseBytes(value));
  } else if (key == "latency_us") {
    KVPLANE_ASSIGN_OR_RETURN(options.latency, ParseMicroseconds(key, value));
  } else if (key == "jitter_us") {
    KVPLANE_ASSIGN_OR_RETURN(options.jitter, ParseMicroseconds(key, value));
  } else if (key == "seed") {
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), options.seed);
    if (error != std::errc() || end != value.data() + value.size()) {
      return base::InvalidArgument("seed \"{}\" is not a whole number", value);
    }
  } else {
    return base::InvalidArgument("shaped: \"{}\" is not one of rate=, latency_us=, jitter_us=, burst=, seed=",
                                 text);
  }
  return base::Status::Ok();
}

// Where the first argument of "INNER,key=value,..." ends: at the first comma outside parentheses.
size_t EndOfInner(std::string_view arguments) {
  int open = 0;
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == '(') ++open;
    if (arguments[i] == ')') --open;
    if (arguments[i] == ',' && open == 0) return i;
  }
  return arguments.size();
}

base::Result<std::unique_ptr<Transport>> Create(std::string_view spec, const TransportSecurity& security,
                                                int depth) {
  if (spec == "tcp") return Protect(CreateTcpTransport(), security);
  if (spec == "inproc") return CreateInprocTransport();
  if (spec == "ucx") {
    KVPLANE_ASSIGN_OR_RETURN(std::unique_ptr<Transport> ucx, CreateUcxTransport());
    return Protect(std::move(ucx), security);
  }
  if (!spec.starts_with(kShaped) || !spec.ends_with(')') || depth >= kMaxDepth) {
    return base::InvalidArgument("transport \"{}\"; known are tcp, inproc, ucx and shaped(INNER,...)", spec);
  }
  const std::string_view arguments = spec.substr(kShaped.size(), spec.size() - kShaped.size() - 1);
  const size_t end = EndOfInner(arguments);
  KVPLANE_ASSIGN_OR_RETURN(std::unique_ptr<Transport> inner,
                           Create(arguments.substr(0, end), security, depth + 1));
  ShapedOptions options;
  for (size_t at = end; at < arguments.size();) {
    const size_t comma = std::min(arguments.find(',', at + 1), arguments.size());
    KVPLANE_RETURN_IF_ERROR(SetShapedParameter(arguments.substr(at + 1, comma - at - 1), options));
    at = comma;
  }
  KVPLANE_ASSIGN_OR_RETURN(auto shaped, ShapedTransport::Create(std::move(inner), options));
  return std::unique_ptr<Transport>(std::move(shaped));
}

}  // namespace

base::Result<std::unique_ptr<Transport>> CreateTransport(std::string_view spec,
                                                         const TransportSecurity& security) {
  return Create(spec, security, 0);
}

std::string Describe(const Capabilities& capabilities) {
  return fmt::format("{}, {}encrypted, {}authenticated, about {:.2g} ns of CPU per byte",
                     capabilities.cross_host ? "between hosts" : "one host",
                     capabilities.encrypted ? "" : "not ", capabilities.authenticated ? "" : "not ",
                     capabilities.cpu_ns_per_byte);
}

}  // namespace kvplane::transport

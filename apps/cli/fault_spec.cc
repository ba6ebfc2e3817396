#include "apps/cli/fault_spec.h"

#include <charconv>
#include <cstdint>
#include <limits>

namespace kvplane::cli {
namespace {

base::Result<double> ParseNumber(std::string_view key, std::string_view text, double max) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= 0 && value <= max)) {
    return base::InvalidArgument("--kv-fault: '{}' is not a number in [0, {}] for '{}'", text, max, key);
  }
  return value;
}

base::Status Apply(std::string_view key, std::string_view text, transport::FaultPlan& plan) {
  constexpr double kMaxBytes = 1e15;
  const bool probability = key == "flip" || key == "delay";
  KVPLANE_ASSIGN_OR_RETURN(const double value, ParseNumber(key, text, probability ? 1.0 : kMaxBytes));
  const auto whole = static_cast<uint64_t>(value);
  if (key == "seed") {
    plan.seed = whole;
  } else if (key == "flip") {
    plan.flip_probability = value;
  } else if (key == "flip-min") {
    plan.flip_min_piece_bytes = whole;
  } else if (key == "delay") {
    plan.delay_probability = value;
  } else if (key == "delay-ms") {
    plan.max_delay = base::FromSeconds(value * 1e-3);
  } else if (key == "drop") {
    plan.drop_after_bytes = whole;
  } else if (key == "truncate") {
    plan.truncate_after_bytes = whole;
  } else if (key == "stall") {
    plan.stall_after_bytes = whole;
  } else {
    return base::InvalidArgument("--kv-fault: unknown key '{}'", key);
  }
  return base::Status::Ok();
}

}  // namespace

base::Result<transport::FaultPlan> ParseFaultPlan(std::string_view text) {
  transport::FaultPlan plan;
  while (!text.empty()) {
    const size_t comma = text.find(',');
    const std::string_view item = text.substr(0, comma);
    const size_t equals = item.find('=');
    if (equals == std::string_view::npos) {
      return base::InvalidArgument("--kv-fault: '{}' is not key=value", item);
    }
    KVPLANE_RETURN_IF_ERROR(Apply(item.substr(0, equals), item.substr(equals + 1), plan));
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
  }
  return plan;
}

}  // namespace kvplane::cli

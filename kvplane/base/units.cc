#include "kvplane/base/units.h"

#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

namespace kvplane::base {
namespace {

using Suffix = std::pair<std::string_view, double>;

constexpr std::array<Suffix, 16> kByteSuffixes = {{{"", 1},
                                                   {"B", 1},
                                                   {"k", 1e3},
                                                   {"kB", 1e3},
                                                   {"KB", 1e3},
                                                   {"M", 1e6},
                                                   {"MB", 1e6},
                                                   {"G", 1e9},
                                                   {"GB", 1e9},
                                                   {"T", 1e12},
                                                   {"TB", 1e12},
                                                   {"KiB", 1024.0},
                                                   {"MiB", 1048576.0},
                                                   {"GiB", 1073741824.0},
                                                   {"TiB", 1099511627776.0},
                                                   {"b", 1}}};

constexpr std::array<Suffix, 12> kRateSuffixes = {{{"", 1},
                                                   {"bit", 1},
                                                   {"kbit", 1e3},
                                                   {"Mbit", 1e6},
                                                   {"Gbit", 1e9},
                                                   {"B", 8},
                                                   {"kB", 8e3},
                                                   {"MB", 8e6},
                                                   {"GB", 8e9},
                                                   {"k", 1e3},
                                                   {"M", 1e6},
                                                   {"G", 1e9}}};

template <size_t N>
Result<double> ParseWithSuffix(std::string_view text, const std::array<Suffix, N>& suffixes,
                               std::string_view what) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || !std::isfinite(number) || number < 0) {
    return InvalidArgument("'{}' is not a {}: it must start with a number >= 0", text, what);
  }
  std::string_view suffix(end, static_cast<size_t>(text.data() + text.size() - end));
  while (!suffix.empty() && suffix.front() == ' ') suffix.remove_prefix(1);
  for (const auto& [name, factor] : suffixes) {
    if (name == suffix) return number * factor;
  }
  return InvalidArgument("'{}' is not a {}: unknown unit '{}'", text, what, suffix);
}

std::string FormatScaled(double value, std::string_view unit) {
  constexpr std::array<std::string_view, 5> kPrefixes = {"", "k", "M", "G", "T"};
  size_t i = 0;
  while (std::abs(value) >= 1000 && i + 1 < kPrefixes.size()) {
    value /= 1000;
    ++i;
  }
  return fmt::format("{:.4g} {}{}", value, kPrefixes[i], unit);
}

}  // namespace

Result<uint64_t> ParseBytes(std::string_view text) {
  KVPLANE_ASSIGN_OR_RETURN(const double bytes, ParseWithSuffix(text, kByteSuffixes, "size"));
  if (bytes >= static_cast<double>(std::numeric_limits<int64_t>::max())) {
    return InvalidArgument("'{}' is too large for a size", text);
  }
  return static_cast<uint64_t>(bytes);
}

Result<double> ParseBitsPerSecond(std::string_view text) {
  std::string_view body = text;
  if (body.ends_with("/s")) body.remove_suffix(2);
  Result<double> rate = ParseWithSuffix(body, kRateSuffixes, "rate");
  if (!rate.ok()) return rate.status().Annotate(text);
  return rate;
}

std::string FormatBytes(double bytes) { return FormatScaled(bytes, "B"); }

std::string FormatBitsPerSecond(double bits_per_second) { return FormatScaled(bits_per_second, "bit/s"); }

}  // namespace kvplane::base

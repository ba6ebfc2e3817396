#include "apps/cli/commands/profile_enumerate.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "apps/cli/exit_code.h"
#include "kvplane/profile/strategy_enumerator.h"

namespace kvplane::cli {
namespace {

profile::SidePairs SidePairsOf(const std::string& name) {
  if (name == "same") return profile::SidePairs::kSame;
  return name == "all" ? profile::SidePairs::kAll : profile::SidePairs::kFamily;
}

void AppendText(const profile::GridPoint& point, std::string& out) {
  out += point.strategy.ToString();
  out += '\n';
}

void AppendJson(const profile::GridPoint& point, std::string& out) {
  const nlohmann::json row = {
      {"strategy", point.strategy.ToString()},           {"id", point.strategy.id().ToHex()},
      {"subspace", std::string(point.subspace)},         {"lossy", point.strategy.lossy()},
      {"needs_profile", point.strategy.needs_profile()}, {"dominated", point.dominated}};
  out += row.dump();
  out += '\n';
}

// False: nobody reads any more.
bool Flush(std::string& out) {
  const bool written = std::fwrite(out.data(), 1, out.size(), stdout) == out.size();
  out.clear();
  return written;
}

}  // namespace

int CmdProfileEnumerate(const ProfileEnumerateArgs& args) {
  constexpr size_t kFlushBytes = 1 << 16;
  profile::EnumerateOptions options;
  options.grid = args.grid;
  options.side_pairs = SidePairsOf(args.side_pairs);
  options.dominated = !args.no_dominated;
  options.needs_profile = !args.no_profile;
  options.limit = args.limit;
  const bool json = args.format == "json";
  std::string out;
  const auto counts = profile::EnumerateStrategies(options, [&](const profile::GridPoint& point) {
    json ? AppendJson(point, out) : AppendText(point, out);
    return out.size() < kFlushBytes || Flush(out);
  });
  if (!counts.ok()) {
    fmt::print(stderr, "kvplane profile enumerate: {}\n", counts.status().message());
    return kExitUsage;
  }
  if (!Flush(out) || std::fflush(stdout) != 0) {
    fmt::print(stderr, "kvplane profile enumerate: standard output is closed\n");
    return kExitFailed;
  }
  fmt::print(stderr, "{} strategies; {} illegal, {} duplicates and {} left out by flags\n", counts->points,
             counts->illegal, counts->duplicates, counts->left_out);
  return kExitOk;
}

}  // namespace kvplane::cli

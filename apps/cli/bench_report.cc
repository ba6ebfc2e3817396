#include "apps/cli/bench_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "kvplane/kernel/isa.h"
#include "kvplane/stats/quantile.h"

#ifndef KVPLANE_COMMIT
#define KVPLANE_COMMIT "unknown"
#endif

namespace kvplane::cli {
namespace {

constexpr size_t kSamplesForP95 = 20;

std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  std::string name, family, model;
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    const std::string value = line.substr(colon + 2);
    if (line.starts_with("model name")) name = value;
    if (line.starts_with("cpu family")) family = value;
    if (line.starts_with("model\t")) model = value;
    if (line.starts_with("flags")) break;
  }
  return fmt::format("{} (family {} model {})", name.empty() ? "unknown" : name, family, model);
}

nlohmann::json ToJsonValue(const BenchValue& value) {
  return std::visit([](const auto& held) { return nlohmann::json(held); }, value);
}

}  // namespace

MachineInfo ThisMachine() {
  MachineInfo machine;
  machine.cpu = CpuName();
  machine.cores = std::thread::hardware_concurrency();
  machine.isa = std::string(Name(kernel::ActiveIsa()));
#ifdef __clang__
  machine.compiler = "clang++ " __clang_version__;
#else
  machine.compiler = "g++ " __VERSION__;
#endif
#ifdef NDEBUG
  machine.build = "release";
#else
  machine.build = "debug";
#endif
  machine.commit = KVPLANE_COMMIT;
  return machine;
}

std::string Describe(const MachineInfo& machine) {
  return fmt::format("{}, {} cores, {} kernels, {}, {}, commit {}", machine.cpu, machine.cores, machine.isa,
                     machine.compiler, machine.build, machine.commit);
}

BenchReport::BenchReport(std::string_view bench, std::string command)
    : bench_(bench), command_(std::move(command)), machine_(ThisMachine()) {}

void BenchReport::AddSample(BenchCase where, std::string_view metric, std::string_view unit,
                            const std::vector<double>& values) {
  rows_.push_back({std::move(where), std::string(metric), std::string(unit), values, values.size()});
}

void BenchReport::AddEstimate(BenchCase where, std::string_view metric, std::string_view unit, uint64_t n,
                              double mean, double standard_error) {
  rows_.push_back({std::move(where), std::string(metric), std::string(unit), {}, n, mean, standard_error});
}

std::string BenchReport::ToJson() const {
  nlohmann::json rows = nlohmann::json::array();
  for (const Row& row : rows_) {
    nlohmann::json where = nlohmann::json::object();
    for (const auto& [key, value] : row.where) where[key] = ToJsonValue(value);
    nlohmann::json out = {{"case", where}, {"metric", row.metric}, {"unit", row.unit}, {"n", row.n}};
    if (!row.values.empty()) {
      out["median"] = stats::Quantile(row.values, 0.5);
      out["min"] = *std::min_element(row.values.begin(), row.values.end());
      out["max"] = *std::max_element(row.values.begin(), row.values.end());
      if (row.values.size() >= kSamplesForP95) out["p95"] = stats::Quantile(row.values, 0.95);
    } else if (row.n > 0) {
      out["mean"] = row.mean;
      if (row.n > 1) out["stderr"] = row.standard_error;
    }
    rows.push_back(std::move(out));
  }
  const nlohmann::json report = {{"bench", bench_},
                                 {"command", command_},
                                 {"machine",
                                  {{"cpu", machine_.cpu},
                                   {"cores", machine_.cores},
                                   {"isa", machine_.isa},
                                   {"compiler", machine_.compiler},
                                   {"build", machine_.build},
                                   {"commit", machine_.commit}}},
                                 {"rows", rows}};
  return report.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

base::Status BenchReport::WriteJson(const std::string& path) const {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << ToJson();
  file.close();
  if (!file) return base::Unavailable("{}: cannot be written", path);
  return base::Status::Ok();
}

}  // namespace kvplane::cli

// BenchReport: the rows of every benchmark in the one JSON shape of docs/benchmarks.md, and the machine they
// came from.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "kvplane/base/status.h"

namespace kvplane::cli {

// What a row's case says: {"mode": "int4", "link_bits_per_s": 2e8}.
using BenchValue = std::variant<std::string, double, int64_t>;
using BenchCase = std::map<std::string, BenchValue>;

struct MachineInfo {
  std::string cpu;  // "AMD EPYC", as the processor calls itself
  int64_t cores = 0;
  std::string isa;       // of the kernels in use
  std::string compiler;  // "g++ 12.2.0"
  std::string build;     // "release" or "debug"
  std::string commit;    // at configure time; "unknown" outside a checkout
};
MachineInfo ThisMachine();
std::string Describe(const MachineInfo& machine);  // one line for people

class BenchReport {
 public:
  // `bench` is the name in the JSON ("codec", "pd"); `command` reproduces the run.
  BenchReport(std::string_view bench, std::string command);

  // One row from its samples: n, median, min, max and, from 20 samples on, p95. The metric's name carries its
  // unit (docs/benchmarks.md lists them).
  void AddSample(BenchCase where, std::string_view metric, std::string_view unit,
                 const std::vector<double>& values);

  // One row of an estimate that is not a sample's median: n, mean and standard error (absent below n = 2).
  void AddEstimate(BenchCase where, std::string_view metric, std::string_view unit, uint64_t n, double mean,
                   double standard_error);

  std::string ToJson() const;
  base::Status WriteJson(const std::string& path) const;

 private:
  struct Row {
    BenchCase where;
    std::string metric;
    std::string unit;
    std::vector<double> values;  // empty: an estimate
    uint64_t n = 0;
    double mean = 0;
    double standard_error = 0;
  };
  std::string bench_;
  std::string command_;
  MachineInfo machine_;
  std::vector<Row> rows_;
};

}  // namespace kvplane::cli

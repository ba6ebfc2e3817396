// The kernels behind the codecs, measured beside memcpy, each with the bar it must reach.
//
// Bars hold for one core of the CPU families they were set on; elsewhere figures stand without a verdict.
// All kernels take turns in every round, memcpy among them, so that noise hits all alike.
//
// Thread safety: none.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "apps/cli/bench_report.h"

namespace kvplane::cli {

// Families with bars.
enum class CpuFamily : uint8_t { kZen5 = 0, kEmeraldRapids = 1, kOther = 2 };
// From what MachineInfo::cpu says: "... (family 26 model 2)" and "(family 6 model 207)".
CpuFamily CpuFamilyOf(std::string_view cpu);

// At least so much on kZen5 and kEmeraldRapids.
struct KernelBar {
  double zen5 = 0;
  double emerald_rapids = 0;
};

enum class BarVerdict { kNone, kMet, kMetInCpuTime, kMissed };
std::string_view Name(BarVerdict verdict);  // "", "met", "met in CPU time", "missed"

// One figure: a rate, or the ratio of two rates of the same round.
struct KernelFigure {
  std::string name;
  std::string unit;             // "Gval/s", "GB/s" or "x"
  std::vector<double> by_wall;  // one entry per round
  std::vector<double> by_cpu;   // of the thread's CPU time
  std::optional<KernelBar> bar;

  double wall_median() const;
  double cpu_median() const;
};
// The bar on this family; none elsewhere.
std::optional<double> BarOf(const KernelFigure& figure, CpuFamily family);
BarVerdict Judge(const KernelFigure& figure, CpuFamily family);

// Something to time: `run` does `work` units (values or bytes).
struct KernelCase {
  std::string name;
  std::string unit;
  double work = 0;
  std::function<void()> run;
  std::optional<KernelBar> bar;
};

// A figure that is another's rate over that of a second one.
struct KernelRatio {
  std::string name;
  std::string over;       // name of the numerator's case
  std::string reference;  // name of the denominator's
  KernelBar bar;
};

// Runs each case until `slice_s` has passed, at least once, in `rounds` rounds after a warm-up; then the
// ratios.
std::vector<KernelFigure> MeasureKernels(const std::vector<KernelCase>& cases,
                                         const std::vector<KernelRatio>& ratios, uint32_t rounds,
                                         double slice_s);

// The product's kernels on data like that of a cache of 8 heads of 128.
std::vector<KernelCase> CodecKernelCases(uint64_t seed);
std::vector<KernelRatio> CodecKernelRatios();

std::string KernelTable(const std::vector<KernelFigure>& figures, CpuFamily family);
void AddKernelRows(BenchReport& report, const std::vector<KernelFigure>& figures, CpuFamily family);

}  // namespace kvplane::cli

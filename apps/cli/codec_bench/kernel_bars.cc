#include "apps/cli/codec_bench/kernel_bars.h"

#include <fmt/format.h>

#include <algorithm>

#include "kvplane/base/check.h"
#include "kvplane/base/clock.h"
#include "kvplane/stats/quantile.h"

namespace kvplane::cli {
namespace {

double ScaleOf(std::string_view unit) { return unit == "x" ? 1 : 1e9; }

void TimeCase(const KernelCase& one, double slice_s, KernelFigure& figure) {
  const base::TimePoint start = base::Clock::System().Now();
  const base::Duration cpu_start = base::ThreadCpuTime();
  double work = 0;
  double wall_s = 0;
  do {
    one.run();
    work += one.work;
    wall_s = base::ToSeconds(base::Clock::System().Now() - start);
  } while (wall_s < slice_s);
  const double cpu_s = base::ToSeconds(base::ThreadCpuTime() - cpu_start);
  figure.by_wall.push_back(work / wall_s / ScaleOf(one.unit));
  figure.by_cpu.push_back(work / cpu_s / ScaleOf(one.unit));
}

const KernelFigure& FigureOf(const std::vector<KernelFigure>& figures, const std::string& name) {
  const auto at = std::find_if(figures.begin(), figures.end(),
                               [&](const KernelFigure& figure) { return figure.name == name; });
  KVPLANE_CHECK(at != figures.end());
  return *at;
}

std::string Range(const std::vector<double>& values) {
  return fmt::format("{:.2f} ({:.2f}-{:.2f})", stats::Quantile(values, 0.5),
                     *std::min_element(values.begin(), values.end()),
                     *std::max_element(values.begin(), values.end()));
}

}  // namespace

CpuFamily CpuFamilyOf(std::string_view cpu) {
  if (cpu.find("AMD") != std::string_view::npos && cpu.find("(family 26 ") != std::string_view::npos) {
    return CpuFamily::kZen5;
  }
  if (cpu.find("Intel") != std::string_view::npos &&
      cpu.find("(family 6 model 207)") != std::string_view::npos) {
    return CpuFamily::kEmeraldRapids;
  }
  return CpuFamily::kOther;
}

std::string_view Name(BarVerdict verdict) {
  switch (verdict) {
    case BarVerdict::kNone:
      return "";
    case BarVerdict::kMet:
      return "met";
    case BarVerdict::kMetInCpuTime:
      return "met in CPU time";
    case BarVerdict::kMissed:
      return "missed";
  }
  return "";
}

double KernelFigure::wall_median() const { return stats::Quantile(by_wall, 0.5); }
double KernelFigure::cpu_median() const { return stats::Quantile(by_cpu, 0.5); }

std::optional<double> BarOf(const KernelFigure& figure, CpuFamily family) {
  if (!figure.bar || family == CpuFamily::kOther) return std::nullopt;
  return family == CpuFamily::kZen5 ? figure.bar->zen5 : figure.bar->emerald_rapids;
}

BarVerdict Judge(const KernelFigure& figure, CpuFamily family) {
  const std::optional<double> bar = BarOf(figure, family);
  if (!bar) return BarVerdict::kNone;
  if (figure.wall_median() >= *bar) return BarVerdict::kMet;
  return figure.cpu_median() >= *bar ? BarVerdict::kMetInCpuTime : BarVerdict::kMissed;
}

std::vector<KernelFigure> MeasureKernels(const std::vector<KernelCase>& cases,
                                         const std::vector<KernelRatio>& ratios, uint32_t rounds,
                                         double slice_s) {
  std::vector<KernelFigure> figures;
  for (const KernelCase& one : cases) {
    one.run();
    figures.push_back({one.name, one.unit, {}, {}, one.bar});
  }
  for (uint32_t round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < cases.size(); ++i) TimeCase(cases[i], slice_s, figures[i]);
  }
  for (const KernelRatio& ratio : ratios) {
    KernelFigure figure{ratio.name, "x", {}, {}, ratio.bar};
    const KernelFigure& over = FigureOf(figures, ratio.over);
    const KernelFigure& reference = FigureOf(figures, ratio.reference);
    for (uint32_t round = 0; round < rounds; ++round) {
      figure.by_wall.push_back(over.by_wall[round] / reference.by_wall[round]);
      figure.by_cpu.push_back(over.by_cpu[round] / reference.by_cpu[round]);
    }
    figures.push_back(std::move(figure));
  }
  return figures;
}

std::string KernelTable(const std::vector<KernelFigure>& figures, CpuFamily family) {
  std::string table = fmt::format("{:<44} {:>7} {:>22} {:>22} {:>7}  {}\n", "kernel, one core", "unit",
                                  "wall (min-max)", "CPU time (min-max)", "bar", "verdict");
  for (const KernelFigure& figure : figures) {
    const std::optional<double> bar = BarOf(figure, family);
    table += fmt::format("{:<44} {:>7} {:>22} {:>22} {:>7}  {}\n", figure.name, figure.unit,
                         Range(figure.by_wall), Range(figure.by_cpu), bar ? fmt::format(">= {:g}", *bar) : "",
                         Name(Judge(figure, family)));
  }
  return table;
}

void AddKernelRows(BenchReport& report, const std::vector<KernelFigure>& figures, CpuFamily family) {
  for (const KernelFigure& figure : figures) {
    const double scale = ScaleOf(figure.unit);
    const auto scaled = [scale](std::vector<double> values) {
      for (double& value : values) value *= scale;
      return values;
    };
    BenchCase where = {{"kernel", figure.name}, {"threads", int64_t{1}}};
    if (const std::optional<double> bar = BarOf(figure, family)) {
      where["bar"] = *bar * scale;
      where["verdict"] = std::string(Name(Judge(figure, family)));
    }
    const std::string metric = figure.unit == "x"      ? "speedup"
                               : figure.unit == "GB/s" ? "bytes_per"
                                                       : "values_per";
    const std::string unit = figure.unit == "x" ? "1" : figure.unit == "GB/s" ? "B/s" : "1/s";
    report.AddSample(where, figure.unit == "x" ? metric : metric + "_s", unit, scaled(figure.by_wall));
    report.AddSample(where, figure.unit == "x" ? metric + "_cpu" : metric + "_cpu_s", unit,
                     scaled(figure.by_cpu));
  }
}

}  // namespace kvplane::cli

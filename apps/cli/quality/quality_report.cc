#include "apps/cli/quality/quality_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "apps/cli/plot/strategy_series.h"

namespace kvplane::cli {
namespace {

// Where the comparison with published ratios is made (percent of the uncompressed quality).
constexpr double kLevels[] = {99, 97.5};
// Below this, differences between ruined runs would squeeze the ones that matter.
constexpr double kLowestShown = 80;

constexpr const char* kQualityRow = "{:<22} {:>7} {:>7} {:>18} {:>16} {:>15} {:>17} {:>15}\n";

std::string PlusMinus(const Estimate& estimate, double scale, int digits) {
  if (estimate.n == 0) return "";
  return fmt::format("{:.{}f} ±{:.{}f}", scale * estimate.mean, digits, scale * estimate.standard_error,
                     digits);
}

std::string QualityLine(const QualityScores& scores, size_t run) {
  const CodedSize size = scores.SizeOf(run);
  std::string kl, top1, perplexity, loss, tasks;
  if (!scores.text.empty()) {
    const TextQuality quality = MeasureText(scores.text[0], scores.text[run]);
    kl = PlusMinus(quality.kl, 1, 5);
    top1 = PlusMinus(quality.top1, 100, 2);
    perplexity = PlusMinus(quality.ppl_change, 1, 2);
    loss = PlusMinus(quality.exp_minus_added_loss, 100, 2);
  }
  if (!scores.all_tasks.empty()) {
    tasks = PlusMinus(MeasureTask(scores.all_tasks[0], scores.all_tasks[run]).relative_accuracy, 1, 2);
  }
  return fmt::format(kQualityRow, scores.runs[run].label, fmt::format("{:.3f}", size.bits_per_value),
                     fmt::format("{:.2f}", size.ratio), kl, top1, perplexity, loss, tasks);
}

void AddEstimate(BenchReport& report, const BenchCase& where, std::string_view metric, std::string_view unit,
                 const Estimate& estimate) {
  if (estimate.n == 0) return;
  report.AddEstimate(where, metric, unit, estimate.n, estimate.mean, estimate.standard_error);
}

void AddSize(BenchReport& report, const BenchCase& where, std::span<const profile::SequenceScore> judged) {
  const CodedSize size = MeasureSize(judged);
  report.AddEstimate(where, "ratio", "1", 1, size.ratio, 0);
  report.AddEstimate(where, "bits_per_value", "bit", 1, size.bits_per_value, 0);
}

void AddText(BenchReport& report, BenchCase where, const QualityScores& scores, size_t run) {
  where["strategy"] = scores.runs[run].label;
  AddSize(report, where, scores.text[run]);
  const TextQuality quality = MeasureText(scores.text[0], scores.text[run]);
  AddEstimate(report, where, "kl", "nat", quality.kl);
  AddEstimate(report, where, "top1", "1", quality.top1);
  AddEstimate(report, where, "ppl_change", "%", quality.ppl_change);
  AddEstimate(report, where, "exp_minus_added_loss", "1", quality.exp_minus_added_loss);
}

void AddTask(BenchReport& report, BenchCase where, const std::string& label, const std::string& task,
             const profile::PairedScores& scores, size_t run) {
  where["strategy"] = label;
  where["task"] = task;
  AddSize(report, where, scores[run]);
  const TaskQuality quality = MeasureTask(scores[0], scores[run]);
  AddEstimate(report, where, "task_accuracy", "1", quality.accuracy);
  AddEstimate(report, where, "relative_task_accuracy", "%", quality.relative_accuracy);
}

// value(run): none when the run has none.
template <typename Value>
PlotPanel Panel(const QualityScores& scores, std::string title, std::string y_label, const Value& value) {
  PlotPanel panel{.title = std::move(title),
                  .x_label = "ratio: bf16 bytes over bytes of the object",
                  .y_label = std::move(y_label),
                  .series = FamilySeries(),
                  .line = {},
                  .levels = {}};
  for (size_t run = 1; run < scores.runs.size(); ++run) {
    const QualityRun& one = scores.runs[run];
    const std::optional<double> y = value(run);
    if (!y || one.family == StrategyFamily::kLossless) continue;
    panel.series[static_cast<size_t>(one.family)].points.push_back({scores.SizeOf(run).ratio, *y, one.label});
  }
  return panel;
}

// The frontier of "large ratio, good y": what nothing beats in both.
void DrawFrontier(PlotPanel& panel, bool high_is_better) {
  std::vector<PlotSeries> mirrored = panel.series;
  for (PlotSeries& series : mirrored) {
    for (PlotPoint& point : series.points) point.x = -point.x;
  }
  panel.line = Frontier(mirrored, high_is_better);
  for (PlotPoint& point : panel.line) point.x = -point.x;
}

void AddLevels(PlotPanel& panel) {
  for (const double level : kLevels) panel.levels.push_back({level, fmt::format("{:g} %", level)});
}

}  // namespace

CodedSize QualityScores::SizeOf(size_t run) const {
  return MeasureSize(text.empty() ? all_tasks[run] : text[run]);
}

double QualityScores::RelativeQuality(size_t run) const {
  double quality = 1e9;
  if (!text.empty()) quality = 100 * MeasureText(text[0], text[run]).exp_minus_added_loss.mean;
  if (!all_tasks.empty()) {
    const Estimate accuracy = MeasureTask(all_tasks[0], all_tasks[run]).relative_accuracy;
    if (accuracy.n > 0) quality = std::min(quality, accuracy.mean);
  }
  return quality;
}

std::optional<size_t> BestAtQuality(const QualityScores& scores, double percent) {
  std::optional<size_t> best;
  for (size_t run = 1; run < scores.runs.size(); ++run) {
    if (scores.RelativeQuality(run) < percent) continue;
    if (!best || scores.SizeOf(run).ratio > scores.SizeOf(*best).ratio) best = run;
  }
  return best;
}

std::string QualityTable(const QualityScores& scores) {
  std::string table = fmt::format(kQualityRow, "strategy", "b/val", "ratio", "KL, nats", "top-1, %",
                                  "perplexity, %", "e^(-loss), %", "tasks, %");
  for (size_t run = 0; run < scores.runs.size(); ++run) table += QualityLine(scores, run);
  for (const double level : kLevels) {
    if (const std::optional<size_t> best = BestAtQuality(scores, level)) {
      table +=
          fmt::format("largest ratio at >= {:g} % of uncompressed: {:.2f}, {} (at {:.2f} %)\n", level,
                      scores.SizeOf(*best).ratio, scores.runs[*best].label, scores.RelativeQuality(*best));
    }
  }
  return table;
}

std::string TaskTable(const QualityScores& scores) {
  std::string table = fmt::format("{:<22}", "answers right, %");
  for (const TaskScores& task : scores.tasks) table += fmt::format(" {:>12}", task.task);
  table += fmt::format(" {:>6} {:>18}\n", "all", "of uncompressed");
  for (size_t run = 0; run < scores.runs.size(); ++run) {
    table += fmt::format("{:<22}", scores.runs[run].label);
    for (const TaskScores& task : scores.tasks) {
      table += fmt::format(" {:>12.1f}", 100 * MeasureTask(task.scores[0], task.scores[run]).accuracy.mean);
    }
    const TaskQuality all = MeasureTask(scores.all_tasks[0], scores.all_tasks[run]);
    table +=
        fmt::format(" {:>6.1f} {:>18}\n", 100 * all.accuracy.mean, PlusMinus(all.relative_accuracy, 1, 2));
  }
  return table;
}

void AddQualityRows(BenchReport& report, const BenchCase& text_case, const BenchCase& task_case,
                    const QualityScores& scores) {
  for (size_t run = 0; run < scores.runs.size(); ++run) {
    const std::string& label = scores.runs[run].label;
    if (!scores.text.empty()) AddText(report, text_case, scores, run);
    for (const TaskScores& task : scores.tasks)
      AddTask(report, task_case, label, task.task, task.scores, run);
    if (!scores.tasks.empty()) AddTask(report, task_case, label, "all", scores.all_tasks, run);
  }
  for (const double level : kLevels) {
    const std::optional<size_t> best = BestAtQuality(scores, level);
    if (!best) continue;
    const BenchCase where = {{"strategy", scores.runs[*best].label}, {"relative_quality_percent", level}};
    report.AddEstimate(where, "ratio_at_quality", "1", 1, scores.SizeOf(*best).ratio, 0);
  }
}

ScatterPlot QualityPlot(const QualityScores& scores, std::string subtitle) {
  ScatterPlot plot{
      .title = "Ratio and quality on the bytes that run", .subtitle = std::move(subtitle), .panels = {}};
  const auto shown = [](double percent) {
    return percent >= kLowestShown ? std::optional<double>(percent) : std::nullopt;
  };
  if (!scores.all_tasks.empty()) {
    plot.panels.push_back(
        Panel(scores, "Tasks: whole answers right", "percent of uncompressed", [&](size_t run) {
          const Estimate tasks = MeasureTask(scores.all_tasks[0], scores.all_tasks[run]).relative_accuracy;
          return tasks.n == 0 ? std::nullopt : shown(tasks.mean);
        }));
    DrawFrontier(plot.panels.back(), true);
    AddLevels(plot.panels.back());
  }
  if (scores.text.empty()) return plot;
  plot.panels.push_back(
      Panel(scores, "Text: e^(-loss added per token)", "percent of uncompressed", [&](size_t run) {
        return shown(100 * MeasureText(scores.text[0], scores.text[run]).exp_minus_added_loss.mean);
      }));
  DrawFrontier(plot.panels.back(), true);
  AddLevels(plot.panels.back());
  plot.panels.push_back(
      Panel(scores, "Text: divergence from uncompressed", "KL, nats per token", [&](size_t run) {
        return std::optional<double>(MeasureText(scores.text[0], scores.text[run]).kl.mean);
      }));
  plot.panels.back().y_scale = AxisScale::kLog;
  DrawFrontier(plot.panels.back(), false);
  return plot;
}

}  // namespace kvplane::cli

// What `bench quality` shows of its scores: tables, the report's rows, a picture of ratio against quality.
//
// Thread safety: values, pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "apps/cli/bench_report.h"
#include "apps/cli/plot/scatter_plot.h"
#include "apps/cli/quality/quality_estimates.h"
#include "apps/cli/strategy_list.h"
#include "kvplane/profile/paired_run.h"

namespace kvplane::cli {

struct TaskScores {
  std::string task;  // "facts-8"
  profile::PairedScores scores;
};

struct QualityRun {
  std::string label;
  StrategyFamily family = StrategyFamily::kLossless;
};

// Every run of the benchmark: index 0 is the uncompressed run.
struct QualityScores {
  std::vector<QualityRun> runs;  // [1 + strategies]
  profile::PairedScores text;    // empty: not asked for
  std::vector<TaskScores> tasks;
  profile::PairedScores all_tasks;  // empty: no tasks

  // Bytes of the prefixes of the text where there is text (sizes depend on the length), else of the tasks.
  CodedSize SizeOf(size_t run) const;
  // Percent of the uncompressed run: the smaller one of relative task accuracy and exp(-added loss).
  double RelativeQuality(size_t run) const;
};

// The compressed run of largest ratio whose relative quality is at least `percent`; none when there is none.
std::optional<size_t> BestAtQuality(const QualityScores& scores, double percent);

// One line per run: size, divergence, perplexity, and quality relative to uncompressed; then the best ratios.
std::string QualityTable(const QualityScores& scores);
// Answers right, by task.
std::string TaskTable(const QualityScores& scores);

// `text_case` and `task_case`: what the rows of text and of tasks say beside strategy and task.
void AddQualityRows(BenchReport& report, const BenchCase& text_case, const BenchCase& task_case,
                    const QualityScores& scores);

// Ratio against relative quality on tasks and text, and against divergence.
ScatterPlot QualityPlot(const QualityScores& scores, std::string subtitle);

}  // namespace kvplane::cli

// Tables, rows and the choice of the best ratio, from scores written by hand.
#include "apps/cli/quality/quality_report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace kvplane::cli {
namespace {

// Two windows (or questions) with this loss, of which `right` are answered, in objects of `coded` bytes.
std::vector<profile::SequenceScore> Scores(double loss, size_t right, uint64_t coded) {
  std::vector<profile::SequenceScore> scores;
  for (size_t i = 0; i < 100; ++i) {
    scores.push_back({.kl = loss - 2,
                      .loss = loss,
                      .top1 = 1,
                      .exact = i < right,
                      .raw_bytes = 16000,
                      .coded_bytes = coded});
  }
  return scores;
}

QualityScores Sample() {
  QualityScores scores;
  scores.runs = {{"uncompressed", StrategyFamily::kLossless},
                 {"safe", StrategyFamily::kFixedWidth},
                 {"good", StrategyFamily::kTransformed},
                 {"forgetful", StrategyFamily::kPublished}};  // fine on text, not on tasks
  scores.text = {Scores(2.0, 0, 16000), Scores(2.001, 0, 4000), Scores(2.02, 0, 1600), Scores(2.0, 0, 1000)};
  scores.all_tasks = {Scores(1, 90, 16000), Scores(1, 90, 5000), Scores(1, 89, 1600), Scores(1, 45, 1000)};
  scores.tasks = {{"facts-8", scores.all_tasks}};
  return scores;
}

TEST(QualityReportUnit, RelativeQualityIsTheWorseOfTasksAndText) {
  const QualityScores scores = Sample();
  EXPECT_NEAR(scores.RelativeQuality(1), 100 * std::exp(-0.001), 1e-9);
  EXPECT_NEAR(scores.RelativeQuality(2), 100 * std::exp(-0.02), 1e-9);
  EXPECT_NEAR(scores.RelativeQuality(3), 50, 1e-9);
  EXPECT_DOUBLE_EQ(scores.SizeOf(1).ratio, 4);  // of the text
  EXPECT_EQ(BestAtQuality(scores, 99), 1u);
  EXPECT_EQ(BestAtQuality(scores, 97.5), 2u);
  EXPECT_EQ(BestAtQuality(scores, 40), 3u);
  EXPECT_EQ(BestAtQuality(scores, 101), std::nullopt);
}

TEST(QualityReportUnit, TablesAndRows) {
  const QualityScores scores = Sample();
  const std::string table = QualityTable(scores);
  EXPECT_NE(table.find("largest ratio at >= 99 % of uncompressed: 4.00, safe (at 99.90 %)"),
            std::string::npos)
      << table;
  EXPECT_NE(table.find("largest ratio at >= 97.5 % of uncompressed: 10.00, good (at 98.02 %)"),
            std::string::npos);
  EXPECT_NE(TaskTable(scores).find("facts-8"), std::string::npos);
  BenchReport report("quality", "test");
  AddQualityRows(report, {{"text", std::string("t")}}, {{"seed", int64_t{1}}}, scores);
  size_t best = 0, text = 0, all = 0;
  const nlohmann::json json = nlohmann::json::parse(report.ToJson());
  for (const auto& row : json["rows"]) {
    best += row["metric"] == "ratio_at_quality" ? 1u : 0u;
    text += row["case"].contains("text") ? 1u : 0u;
    all += row["case"].contains("task") && row["case"]["task"] == "all" ? 1u : 0u;
    if (row["metric"] == "relative_task_accuracy" && row["case"]["strategy"] == "forgetful") {
      EXPECT_DOUBLE_EQ(row["mean"], 50);
    }
  }
  EXPECT_EQ(best, 2u);
  EXPECT_EQ(text, 4 * 6u);
  EXPECT_EQ(all, 4 * 4u);
}

TEST(QualityReportUnit, PlotHasAPanelPerMeasure) {
  QualityScores scores = Sample();
  const ScatterPlot plot = QualityPlot(scores, "x");
  ASSERT_EQ(plot.panels.size(), 3u);
  // Tasks at 50 % are below what is shown.
  size_t points = 0;
  for (const PlotSeries& series : plot.panels[0].series) points += series.points.size();
  EXPECT_EQ(points, 2u);
  ASSERT_EQ(plot.panels[0].line.size(), 2u);
  EXPECT_EQ(plot.panels[0].line[0].name, "good");  // by falling ratio
  EXPECT_EQ(plot.panels[0].levels.size(), 2u);
  EXPECT_NE(plot.ToSvg().find("97.5 %"), std::string::npos);
  scores.text.clear();
  EXPECT_EQ(QualityPlot(scores, "x").panels.size(), 1u);
  EXPECT_DOUBLE_EQ(scores.SizeOf(1).ratio, 3.2);  // now of the tasks
}

}  // namespace
}  // namespace kvplane::cli

#include "apps/cli/codec_bench/codec_figures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "apps/cli/plot/strategy_series.h"
#include "kvplane/stats/quantile.h"

namespace kvplane::cli {
namespace {

// Workers wait for each other at the end of a turn, which takes a few percent.
constexpr double kQuietShare = 0.9;

// Median in GB/s; blank where nothing was measured.
std::string Median(const std::vector<double>& bytes_per_s) {
  return bytes_per_s.empty() ? "" : fmt::format("{:.2f}", stats::Quantile(bytes_per_s, 0.5) / 1e9);
}

// "11.2 (9.8-12.0)": median and spread of one core's wall time.
std::string WithSpread(const std::vector<double>& bytes_per_s) {
  if (bytes_per_s.empty()) return "";
  return fmt::format("{:.2f} ({:.1f}-{:.1f})", stats::Quantile(bytes_per_s, 0.5) / 1e9,
                     *std::min_element(bytes_per_s.begin(), bytes_per_s.end()) / 1e9,
                     *std::max_element(bytes_per_s.begin(), bytes_per_s.end()) / 1e9);
}

constexpr const char* kTableRow =
    "{:<22} {:>7} {:>7} {:>7} {:>7} {:>8} {:>8} {:>19} {:>19} {:>6} {:>6} {:>7} {:>7}\n";

std::string TableLine(const CodecFigures& f) {
  std::string size[2], snr[2], attention[2];
  if (f.two_way) {
    size[0] = fmt::format("{:.3f}", f.bits_per_value());
    size[1] = fmt::format("{:.3f}", f.ratio());
    for (size_t side = 0; side < 2; ++side) snr[side] = FormatSnr(f.error.SnrDb(side));
  }
  if (f.two_way && !f.attention.empty()) {
    attention[0] = fmt::format("{:.4f}", f.attention.Mean());
    attention[1] = fmt::format("{:.4f}", f.attention.Worst());
  }
  return fmt::format(kTableRow, f.label, size[0], size[1], snr[0], snr[1], attention[0], attention[1],
                     WithSpread(f.speed.one_core.encode), WithSpread(f.speed.one_core.decode),
                     Median(f.speed.one_core_cpu.encode), Median(f.speed.one_core_cpu.decode),
                     Median(f.speed.all_cores.encode), Median(f.speed.all_cores.decode));
}

void AddSpeed(BenchReport& report, BenchCase where, const CodecSpeed& speed, std::string_view per) {
  if (!speed.encode.empty())
    report.AddSample(where, fmt::format("encode_bytes_per_{}", per), "B/s", speed.encode);
  if (!speed.decode.empty())
    report.AddSample(where, fmt::format("decode_bytes_per_{}", per), "B/s", speed.decode);
}

BenchCase With(BenchCase where, const std::string& key, BenchValue value) {
  where[key] = std::move(value);
  return where;
}

PlotPanel SnrPanel(std::span<const CodecFigures> figures, size_t side) {
  PlotPanel panel{.title = side == 0 ? "Keys" : "Values",
                  .x_label = "bits per value",
                  .y_label = "signal to noise, dB",
                  .x_scale = AxisScale::kLog,
                  .series = FamilySeries(),
                  .line = {}};
  for (const CodecFigures& f : figures) {
    if (!f.strategy || f.family == StrategyFamily::kLossless) continue;
    panel.series[static_cast<size_t>(f.family)].points.push_back(
        {f.bits_per_value(side), f.error.SnrDb(side), f.label});
  }
  panel.line = Frontier(panel.series, true);
  return panel;
}

PlotPanel AttentionPanel(std::span<const CodecFigures> figures) {
  PlotPanel panel{.title = "Attention output",
                  .x_label = "bits per value, K and V together",
                  .y_label = "relative error, mean over layers",
                  .x_scale = AxisScale::kLog,
                  .y_scale = AxisScale::kLog,
                  .series = FamilySeries(),
                  .line = {}};
  for (const CodecFigures& f : figures) {
    if (!f.strategy || f.attention.empty() || f.attention.Mean() == 0) continue;
    panel.series[static_cast<size_t>(f.family)].points.push_back(
        {f.bits_per_value(), f.attention.Mean(), f.label});
  }
  panel.line = Frontier(panel.series, false);
  return panel;
}

}  // namespace

double CodecFigures::ratio() const {
  return static_cast<double>(raw_bytes) / static_cast<double>(coded_bytes[0] + coded_bytes[1]);
}

double CodecFigures::bits_per_value() const { return 16 / ratio(); }

double CodecFigures::bits_per_value(size_t side) const {
  return 16 * 2 * static_cast<double>(coded_bytes[side]) / static_cast<double>(raw_bytes);
}

std::string FormatSnr(double db) { return std::isinf(db) ? "exact" : fmt::format("{:.1f}", db); }

std::string DescribeCores(std::span<const CodecFigures> figures, size_t workers) {
  std::string text = fmt::format("all cores: {} thread{}", workers, workers == 1 ? "" : "s");
  std::vector<double> shares;
  for (const CodecFigures& f : figures) {
    if (!f.speed.core_share.empty()) shares.push_back(stats::Quantile(f.speed.core_share, 0.5));
  }
  if (shares.empty()) return text;
  const double share = stats::Quantile(shares, 0.5);
  text += fmt::format(", which had {:.0f} % of them", 100 * share);
  if (share < kQuietShare) text += "; other work ran beside them, these figures are not the machine's";
  return text;
}

std::string CodecTable(std::span<const CodecFigures> figures) {
  std::string table = fmt::format(kTableRow, "", "", "", "SNR dB", "", "att.err", "", "one core, GB/s", "",
                                  "CPU", "", "all", "cores");
  table += fmt::format(kTableRow, "strategy", "b/val", "ratio", "K", "V", "mean", "worst", "encode (min-max)",
                       "decode (min-max)", "enc", "dec", "enc", "dec");
  for (const CodecFigures& f : figures) table += TableLine(f);
  return table;
}

void AddCodecRows(BenchReport& report, const BenchCase& input, const CodecFigures& f, size_t workers) {
  const BenchCase where = With(input, "strategy", f.label);
  if (f.two_way) {
    report.AddEstimate(where, "bits_per_value", "bit", 1, f.bits_per_value(), 0);
    report.AddEstimate(where, "ratio", "1", 1, f.ratio(), 0);
    for (size_t side = 0; side < 2; ++side) {
      const BenchCase of_side = With(where, "side", std::string(side == 0 ? "k" : "v"));
      if (f.strategy) report.AddEstimate(of_side, "bits_per_value", "bit", 1, f.bits_per_value(side), 0);
      // JSON has no infinity: an exact copy has no row.
      if (const double snr = f.error.SnrDb(side); std::isfinite(snr)) {
        report.AddEstimate(of_side, "snr", "dB", 1, snr, 0);
      }
    }
  }
  if (f.two_way && !f.attention.empty()) {
    report.AddEstimate(where, "attention_error", "1", 1, f.attention.Mean(), 0);
    report.AddEstimate(where, "attention_error_worst_layer", "1", 1, f.attention.Worst(), 0);
  }
  AddSpeed(report, With(where, "threads", int64_t{1}), f.speed.one_core, "s");
  AddSpeed(report, With(where, "threads", int64_t{1}), f.speed.one_core_cpu, "cpu_s");
  const BenchCase on_all = With(where, "threads", static_cast<int64_t>(workers));
  AddSpeed(report, on_all, f.speed.all_cores, "s");
  if (!f.speed.core_share.empty()) report.AddSample(on_all, "core_share", "1", f.speed.core_share);
}

ScatterPlot CodecPlot(std::span<const CodecFigures> figures, std::string subtitle) {
  ScatterPlot plot{
      .title = "Rate and distortion of the KV codecs", .subtitle = std::move(subtitle), .panels = {}};
  plot.panels.push_back(SnrPanel(figures, 0));
  plot.panels.push_back(SnrPanel(figures, 1));
  const bool queries =
      std::any_of(figures.begin(), figures.end(), [](const CodecFigures& f) { return !f.attention.empty(); });
  if (queries) plot.panels.push_back(AttentionPanel(figures));
  return plot;
}

}  // namespace kvplane::cli

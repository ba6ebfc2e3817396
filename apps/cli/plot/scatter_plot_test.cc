// Axes, placement of names and the document: well-formed, inside its frame, nothing covered.
#include "apps/cli/plot/scatter_plot.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "apps/cli/plot/label_placement.h"
#include "apps/cli/plot/plot_axis.h"
#include "kvplane/base/rng.h"

namespace kvplane::cli {
namespace {

std::vector<std::string> Texts(const PlotAxis& axis) {
  std::vector<std::string> texts;
  for (const PlotTick& tick : axis.ticks()) texts.push_back(tick.text);
  return texts;
}

TEST(PlotAxisUnit, RoundTicksAroundTheValues) {
  const PlotAxis linear(AxisScale::kLinear, std::vector<double>{0.9, 5.1, 3});
  EXPECT_EQ(Texts(linear), (std::vector<std::string>{"0", "1", "2", "3", "4", "5", "6"}));
  EXPECT_EQ(linear.low(), 0);
  EXPECT_EQ(linear.high(), 6);
  EXPECT_DOUBLE_EQ(linear.Share(1.5), 0.25);
  const PlotAxis log(AxisScale::kLog, std::vector<double>{0.012, 0.3});
  EXPECT_EQ(Texts(log), (std::vector<std::string>{"0.02", "0.05", "0.1", "0.2"}));
  const PlotAxis decade(AxisScale::kLog, std::vector<double>{1.2, 7});
  EXPECT_EQ(Texts(decade), (std::vector<std::string>{"1.5", "2", "3", "4", "5", "6", "8"}));
  const PlotAxis wide(AxisScale::kLog, std::vector<double>{0.9, 20'000});
  EXPECT_EQ(Texts(wide), (std::vector<std::string>{"1", "10", "100", "1000", "10000"}));
  EXPECT_TRUE(log.Shows(0.012));
  EXPECT_NEAR(log.Share(std::sqrt(log.low() * log.high())), 0.5, 1e-12);
}

TEST(PlotAxisUnit, ValuesThatNoAxisShows) {
  const double inf = std::numeric_limits<double>::infinity();
  const PlotAxis empty(AxisScale::kLog, std::vector<double>{0, -1, inf, std::nan("")});
  EXPECT_FALSE(empty.ticks().empty());
  EXPECT_FALSE(empty.Shows(0));
  EXPECT_FALSE(empty.Shows(inf));
  const PlotAxis one(AxisScale::kLinear, std::vector<double>{4, 4});
  EXPECT_LT(one.low(), 4);
  EXPECT_GT(one.high(), 4);
  const PlotAxis zero(AxisScale::kLinear, std::vector<double>{0});
  EXPECT_TRUE(zero.Shows(0));
}

TEST(PlotAxisProperty, EveryRangeHasAFewAscendingTicksInside) {
  base::Rng rng(7);
  for (int i = 0; i < 2000; ++i) {
    const AxisScale scale = i % 2 == 0 ? AxisScale::kLinear : AxisScale::kLog;
    std::vector<double> values;
    for (int v = 0; v < 3; ++v) values.push_back(std::exp(8 * rng.Normal()));
    const PlotAxis axis(scale, values);
    ASSERT_LE(axis.ticks().size(), 40u);
    ASSERT_GE(axis.ticks().size(), scale == AxisScale::kLinear ? 2u : 1u);
    double last = -1;
    for (const PlotTick& tick : axis.ticks()) {
      const double share = axis.Share(tick.value);
      ASSERT_GT(share, last);
      ASSERT_LE(share, 1 + 1e-9);
      last = share;
    }
    for (const double value : values) ASSERT_TRUE(axis.Shows(value));
  }
}

// Names of random crowds: whatever is placed overlaps nothing.
TEST(LabelPlacementProperty, NothingOverlaps) {
  constexpr double kHalfMarker = 4;
  const PlotBox frame{0, 0, 800, 300};
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    base::Rng rng(seed);
    std::vector<PlotSpot> spots;
    std::vector<LabelRequest> labels;
    for (int i = 0; i < 25; ++i) {
      // Half of them crowd in one corner.
      const double spread = i % 2 == 0 ? 1 : 0.25;
      spots.push_back({10 + 780 * spread * rng.Uniform(), 10 + 280 * spread * rng.Uniform()});
      labels.push_back({spots.back(), 20 + 80 * rng.Uniform(), 12});
    }
    const auto placed = PlaceLabels({frame, spots, kHalfMarker, {}, {}}, labels);
    ASSERT_EQ(placed.size(), labels.size());
    size_t count = 0;
    for (size_t i = 0; i < placed.size(); ++i) {
      if (!placed[i]) continue;
      ++count;
      ASSERT_TRUE(frame.Contains(*placed[i]));
      ASSERT_NEAR(placed[i]->right - placed[i]->left, labels[i].width, 1e-9);
      for (size_t j = 0; j < i; ++j) ASSERT_FALSE(placed[j] && placed[j]->Overlaps(*placed[i]));
      for (const PlotSpot& spot : spots) {
        const PlotBox marker{spot.x - kHalfMarker, spot.y - kHalfMarker, spot.x + kHalfMarker,
                             spot.y + kHalfMarker};
        ASSERT_FALSE(marker.Overlaps(*placed[i]));
      }
    }
    EXPECT_GE(count, 20u) << "seed " << seed;
  }
}

TEST(LabelPlacementUnit, ALoneNameStandsRightOfItsPoint) {
  const PlotSpot spot{50, 50};
  const LabelRequest label{spot, 30, 10};
  const auto placed = PlaceLabels({{0, 0, 100, 100}, {&spot, 1}, 4, {}, {}}, {&label, 1});
  ASSERT_TRUE(placed[0]);
  EXPECT_GT(placed[0]->left, 54);
  EXPECT_LT(placed[0]->left, 64);
  EXPECT_DOUBLE_EQ((placed[0]->top + placed[0]->bottom) / 2, 50);
  // Off a line through the point, unless there is no other place.
  const PlotSpot line[] = {{0, 50}, {100, 50}};
  const auto off = PlaceLabels({{0, 0, 100, 100}, {&spot, 1}, 4, line, {}}, {&label, 1});
  ASSERT_TRUE(off[0]);
  EXPECT_FALSE(off[0]->top < 50 && 50 < off[0]->bottom);
  const auto on = PlaceLabels({{0, 42, 100, 58}, {&spot, 1}, 4, line, {}}, {&label, 1});
  ASSERT_TRUE(on[0]);
  // No room at all: no name.
  EXPECT_FALSE(PlaceLabels({{0, 0, 20, 100}, {&spot, 1}, 4, {}, {}}, {&label, 1})[0]);
}

TEST(ScatterPlotUnit, FrontierKeepsWhatNothingBeats) {
  const std::vector<PlotSeries> series = {{"a", {{1, 10, "p"}, {2, 9, "beaten"}, {3, 12, "q"}}},
                                          {"b", {{1, 8, "beaten"}, {4, 12, "no better"}, {5, 20, "r"}}}};
  std::string names;
  for (const PlotPoint& point : Frontier(series, true)) names += point.name;
  EXPECT_EQ(names, "pqr");
  names.clear();
  for (const PlotPoint& point : Frontier(series, false)) names += point.name;
  EXPECT_EQ(names, "beaten");  // (1, 8) is the smallest of all
}

TEST(ScatterPlotUnit, EscapesMarkupAndWhatXmlCannotHold) {
  EXPECT_EQ(EscapeXml("a<b>&\"c\""), "a&lt;b&gt;&amp;&quot;c&quot;");
  EXPECT_EQ(EscapeXml("k \xc3\xa4 \xe2\x82\xac"), "k \xc3\xa4 \xe2\x82\xac");
  EXPECT_EQ(EscapeXml(std::string_view("\x01\x00x\x7f", 4)), "??x\x7f");
  EXPECT_EQ(EscapeXml("\xc3"), "?");            // cut short
  EXPECT_EQ(EscapeXml("\xc0\xaf\xff"), "???");  // overlong, never legal
  EXPECT_EQ(EscapeXml("\xed\xa0\x80"), "???");  // a surrogate
}

// A reader of XML as small as the writer: tags balance, attributes are quoted, no stray markup. Returns the
// element names in order of their start; fails the test otherwise.
std::vector<std::string> ParseXml(std::string_view text) {
  std::vector<std::string> seen, open;
  while (!text.empty()) {
    if (text[0] != '<') {
      EXPECT_NE(text[0], '>');
      text.remove_prefix(1);
      continue;
    }
    const size_t end = text.find('>');
    EXPECT_NE(end, std::string_view::npos);
    std::string_view tag = text.substr(1, end - 1);
    text.remove_prefix(end + 1);
    EXPECT_EQ(tag.find('<'), std::string_view::npos);
    if (tag.starts_with("/")) {
      EXPECT_FALSE(open.empty());
      EXPECT_EQ(open.back(), tag.substr(1));
      open.pop_back();
      continue;
    }
    const bool closed = tag.ends_with("/");
    if (closed) tag.remove_suffix(1);
    const std::string name(tag.substr(0, tag.find(' ')));
    EXPECT_EQ(std::count(tag.begin(), tag.end(), '"') % 2, 0) << tag;
    seen.push_back(name);
    if (!closed) open.push_back(name);
  }
  EXPECT_TRUE(open.empty());
  return seen;
}

ScatterPlot SamplePlot() {
  ScatterPlot plot;
  plot.title = "A & B <all>";
  plot.subtitle = "machine \xff";
  PlotPanel panel;
  panel.title = "Keys";
  panel.x_label = "bits";
  panel.y_label = "error";
  panel.y_scale = AxisScale::kLog;
  base::Rng rng(3);
  for (int s = 0; s < 5; ++s) {
    PlotSeries series{"series " + std::to_string(s), {}};
    for (int i = 0; i < 6; ++i) {
      series.points.push_back(
          {1 + 8 * rng.Uniform(), std::exp(rng.Normal()), "name<" + std::to_string(10 * s + i)});
    }
    panel.series.push_back(series);
  }
  panel.series[0].points.push_back({2, 0, "not on a logarithmic axis"});
  panel.series[0].points.push_back({std::numeric_limits<double>::infinity(), 1, "nowhere"});
  panel.line = Frontier(panel.series, false);
  plot.panels = {panel, panel};
  return plot;
}

size_t Count(const std::vector<std::string>& names, std::string_view name) {
  return static_cast<size_t>(std::count(names.begin(), names.end(), name));
}

TEST(ScatterPlotUnit, DocumentIsWellFormedAndHoldsEveryPoint) {
  const std::string svg = SamplePlot().ToSvg();
  const std::vector<std::string> elements = ParseXml(svg);
  EXPECT_EQ(elements.front(), "svg");
  EXPECT_EQ(Count(elements, "g"), 2u);
  // 30 points in each of two panels and five markers in the legend; a <title> each, and the document's.
  EXPECT_EQ(Count(elements, "title"), 2 * 30u + 5 + 1);
  EXPECT_EQ(Count(elements, "polyline"), 2u);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
  EXPECT_NE(svg.find("prefers-color-scheme:dark"), std::string::npos);
  EXPECT_NE(svg.find("A &amp; B &lt;all&gt;"), std::string::npos);
}

TEST(ScatterPlotUnit, CoordinatesStayInsideTheDocument) {
  const std::string svg = SamplePlot().ToSvg();
  for (const std::string_view attribute : {" x=\"", " cx=\"", " x1=\"", " x2=\""}) {
    for (size_t at = svg.find(attribute); at != std::string::npos; at = svg.find(attribute, at + 1)) {
      const double x = std::stod(svg.substr(at + attribute.size(), 16));
      ASSERT_GE(x, 0);
      ASSERT_LE(x, 940);
    }
  }
}

TEST(ScatterPlotUnit, AnEmptyPlotIsStillADocument) {
  EXPECT_EQ(ParseXml(ScatterPlot{}.ToSvg()).front(), "svg");
  ScatterPlot plot;
  plot.panels.push_back({});
  EXPECT_EQ(Count(ParseXml(plot.ToSvg()), "g"), 1u);
}

}  // namespace
}  // namespace kvplane::cli

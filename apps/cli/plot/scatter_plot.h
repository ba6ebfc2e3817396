// ScatterPlot: named points on axes, as an SVG document: panels below each other, one legend.
//
// The document is complete by itself (no scripts, fonts or links) and follows the reader's light or dark
// scheme by a media query. Names never cover each other (label_placement.h); every marker also carries its
// name and values as a <title>, which viewers show on hovering.
//
// Thread safety: values, pure functions.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "apps/cli/plot/plot_axis.h"
#include "kvplane/base/status.h"

namespace kvplane::cli {

struct PlotPoint {
  double x = 0;
  double y = 0;
  std::string name;
};

// Points that share a colour and a marker. At most kMaxPlotSeries: further ones repeat the looks.
struct PlotSeries {
  std::string name;
  std::vector<PlotPoint> points;
};
constexpr size_t kMaxPlotSeries = 5;

struct PlotPanel {
  std::string title;
  std::string x_label;
  std::string y_label;
  AxisScale x_scale = AxisScale::kLinear;
  AxisScale y_scale = AxisScale::kLinear;
  std::vector<PlotSeries> series;  // the same names in the same order in all panels; points may be absent
  // A thin line through these, in order: a frontier. May be empty.
  std::vector<PlotPoint> line = {};
  std::vector<PlotTick> levels = {};  // horizontal lines with a text, where y shows them
};

struct ScatterPlot {
  std::string title;
  std::string subtitle;  // machine and input, for people
  std::vector<PlotPanel> panels = {};

  // Points that an axis cannot show (infinite, or not positive on a logarithmic one) are left out.
  std::string ToSvg() const;
  base::Status WriteSvg(const std::string& path) const;  // kUnavailable: cannot be written
};

// The points that no other one beats: less or equal x with better y (or equal x with better y), by rising x.
std::vector<PlotPoint> Frontier(std::span<const PlotSeries> series, bool high_is_better);

// Text as XML character data or attribute value: markup escaped, what XML 1.0 cannot hold replaced by '?'.
std::string EscapeXml(std::string_view text);

}  // namespace kvplane::cli

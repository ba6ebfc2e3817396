#include "apps/cli/plot/scatter_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>

#include "apps/cli/plot/label_placement.h"

namespace kvplane::cli {
namespace {

// Pixels. The width is that of a page of documentation, so that text is read at its own size.
constexpr double kWidth = 940;
constexpr double kPanelHeight = 430;
constexpr double kHeadHeight = 84;  // title, subtitle, legend
constexpr double kFrameLeft = 72;
constexpr double kFrameRight = kWidth - 20;
constexpr double kFrameTop = 34;  // below the panel's own title
constexpr double kFrameBottom = kPanelHeight - 58;
constexpr double kMarker = 4.5;  // half of a marker's width
// Names are in a monospaced face so that their width is known without a font: 0.6 em each.
constexpr double kNameSize = 11;
constexpr double kNameAdvance = 0.61 * kNameSize;
constexpr double kNameHeight = 12;
constexpr double kLeaderFrom = kMarker + 7;  // a nearer name needs no line to its point
constexpr double kLegendAdvance = 7.4;

// Colours after Okabe and Ito, "Color universal design" (2008): told apart by colour-blind readers too.
constexpr std::string_view kStyle = R"(<style>
text{font-family:system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#1f2328}
.name{font-family:ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;font-size:11px}
.faint{fill:#59636e}
.ground{fill:#ffffff}
.grid{stroke:#d8dee4;stroke-width:1}
.frame{stroke:#8c959f;fill:none}
.level{stroke:#8c959f;stroke-width:1.2}
.leader{stroke:#8c959f;stroke-width:.7}
.front{stroke:#8c959f;fill:none;stroke-dasharray:5 4}
.s0{fill:#0072b2}.s1{fill:#d55e00}.s2{fill:#009e73}.s3{fill:#b0488a}.s4{fill:#6e7781}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}
.faint{fill:#9198a1}
.ground{fill:#0d1117}
.grid{stroke:#2a313a}
.frame,.leader,.front,.level{stroke:#6e7681}
.s0{fill:#56b4e9}.s1{fill:#ff9248}.s2{fill:#3ecf9b}.s3{fill:#e58fc4}.s4{fill:#9ea7b0}
}
</style>
)";

// Bytes of the UTF-8 character at the front of `text`; 0: not a character that XML 1.0 can hold.
size_t CharacterBytes(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return lead >= 0x20 || lead == '\t' || lead == '\n' ? 1 : 0;
  const size_t bytes = lead >= 0xf0 && lead < 0xf5 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc2 ? 2 : 0;
  if (bytes == 0 || lead >= 0xf5 || text.size() < bytes) return 0;
  uint32_t code = lead & (0xffu >> (bytes + 1));
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xc0u) != 0x80) return 0;
    code = code << 6 | (byte(i) & 0x3fu);
  }
  constexpr std::array<uint32_t, 5> kLeast = {0, 0, 0x80, 0x800, 0x10000};
  const bool legal = code >= kLeast[bytes] && code <= 0x10ffff && !(code >= 0xd800 && code < 0xe000) &&
                     code != 0xfffe && code != 0xffff;
  return legal ? bytes : 0;
}

std::string Text(double x, double y, std::string_view attributes, std::string_view text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" {}>{}</text>\n", x, y, attributes, EscapeXml(text));
}

std::string Line(double x1, double y1, double x2, double y2, std::string_view css) {
  return fmt::format("<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", css,
                     x1, y1, x2, y2);
}

// A marker of series `index` with `title` shown on hovering.
std::string Marker(size_t index, const PlotSpot& at, std::string_view title) {
  index %= kMaxPlotSeries;
  const double m = kMarker;
  std::string shape;
  switch (index) {
    case 0:
      shape = fmt::format("<circle class=\"s0\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\">", at.x, at.y, m);
      break;
    case 1:
      shape = fmt::format("<rect class=\"s1\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{}\" height=\"{}\">",
                          at.x - m, at.y - m, 2 * m, 2 * m);
      break;
    default: {
      // Diamond, triangle, triangle on its head.
      const std::array<std::array<PlotSpot, 4>, 3> corners = {{{{{0, -m}, {m, 0}, {0, m}, {-m, 0}}},
                                                               {{{0, -m}, {m, m}, {-m, m}, {-m, m}}},
                                                               {{{0, m}, {m, -m}, {-m, -m}, {-m, -m}}}}};
      shape = fmt::format("<polygon class=\"s{}\" points=\"", index);
      for (const PlotSpot& corner : corners[index - 2]) {
        shape += fmt::format("{:.1f},{:.1f} ", at.x + corner.x, at.y + corner.y);
      }
      shape += "\">";
      return shape + fmt::format("<title>{}</title></polygon>\n", EscapeXml(title));
    }
  }
  const std::string_view tag = index == 0 ? "circle" : "rect";
  return shape + fmt::format("<title>{}</title></{}>\n", EscapeXml(title), tag);
}

// One panel, drawn with its top left corner at the origin.
class PanelPainter {
 public:
  explicit PanelPainter(const PlotPanel& panel)
      : panel_(panel),
        x_(panel.x_scale, Values(panel, &PlotPoint::x)),
        y_(panel.y_scale, Values(panel, &PlotPoint::y)) {}

  std::string Paint() {
    std::string svg = Text(kFrameLeft, 22, "font-size=\"14\" font-weight=\"600\"", panel_.title);
    svg += Axes();
    svg += Levels();
    svg += FrontLine();
    svg += Points();
    return svg;
  }

 private:
  static std::vector<double> Values(const PlotPanel& panel, double PlotPoint::* member) {
    std::vector<double> values;
    for (const PlotSeries& series : panel.series) {
      for (const PlotPoint& point : series.points) {
        // What one axis cannot show must not stretch the other.
        const bool shown = std::isfinite(point.x) && std::isfinite(point.y) &&
                           (panel.x_scale != AxisScale::kLog || point.x > 0) &&
                           (panel.y_scale != AxisScale::kLog || point.y > 0);
        if (shown) values.push_back(point.*member);
      }
    }
    return values;
  }

  bool Shows(const PlotPoint& point) const { return x_.Shows(point.x) && y_.Shows(point.y); }
  PlotSpot At(double x, double y) const {
    return {kFrameLeft + x_.Share(x) * (kFrameRight - kFrameLeft),
            kFrameBottom - y_.Share(y) * (kFrameBottom - kFrameTop)};
  }

  std::string Axes() const {
    std::string svg;
    for (const PlotTick& tick : x_.ticks()) {
      const double x = At(tick.value, y_.low()).x;
      svg += Line(x, kFrameTop, x, kFrameBottom, "grid");
      svg += Text(x, kFrameBottom + 18, "class=\"faint\" font-size=\"12\" text-anchor=\"middle\"", tick.text);
    }
    for (const PlotTick& tick : y_.ticks()) {
      const double y = At(x_.low(), tick.value).y;
      svg += Line(kFrameLeft, y, kFrameRight, y, "grid");
      svg += Text(kFrameLeft - 8, y + 4, "class=\"faint\" font-size=\"12\" text-anchor=\"end\"", tick.text);
    }
    svg += fmt::format("<rect class=\"frame\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/>\n", kFrameLeft,
                       kFrameTop, kFrameRight - kFrameLeft, kFrameBottom - kFrameTop);
    svg += Text((kFrameLeft + kFrameRight) / 2, kFrameBottom + 40, "font-size=\"13\" text-anchor=\"middle\"",
                panel_.x_label);
    const double middle = (kFrameTop + kFrameBottom) / 2;
    svg +=
        Text(18, middle,
             fmt::format("font-size=\"13\" text-anchor=\"middle\" transform=\"rotate(-90 18 {})\"", middle),
             panel_.y_label);
    return svg;
  }

  std::string Levels() {
    std::string svg;
    for (const PlotTick& level : panel_.levels) {
      if (!y_.Shows(level.value)) continue;
      const double y = At(x_.low(), level.value).y;
      const double width = kNameAdvance * static_cast<double>(level.text.size());
      const PlotBox box{kFrameLeft + 6, y - 3 - kNameHeight, kFrameLeft + 6 + width, y - 1};
      level_texts_.push_back(box);
      svg += Line(kFrameLeft, y, kFrameRight, y, "level");
      svg += Text(box.left, y - 4, "class=\"name faint\"", level.text);
    }
    return svg;
  }

  std::string FrontLine() const {
    std::string points;
    for (const PlotPoint& point : panel_.line) {
      if (!Shows(point)) continue;
      const PlotSpot at = At(point.x, point.y);
      points += fmt::format("{:.1f},{:.1f} ", at.x, at.y);
    }
    return points.empty() ? "" : fmt::format("<polyline class=\"front\" points=\"{}\"/>\n", points);
  }

  std::string Points() const {
    std::string markers;
    std::vector<PlotSpot> spots;
    std::vector<const PlotPoint*> shown;
    for (size_t s = 0; s < panel_.series.size(); ++s) {
      for (const PlotPoint& point : panel_.series[s].points) {
        if (!Shows(point)) continue;
        spots.push_back(At(point.x, point.y));
        shown.push_back(&point);
        markers += Marker(s, spots.back(), fmt::format("{}: {:.4g}, {:.4g}", point.name, point.x, point.y));
      }
    }
    return Names(spots, shown) + markers;
  }

  std::string Names(std::span<const PlotSpot> spots, std::span<const PlotPoint* const> shown) const {
    std::vector<LabelRequest> requests;
    for (size_t i = 0; i < spots.size(); ++i) {
      const double width = kNameAdvance * static_cast<double>(shown[i]->name.size());
      requests.push_back({spots[i], width, kNameHeight});
    }
    std::vector<PlotSpot> line;
    for (const PlotPoint& point : panel_.line) {
      if (Shows(point)) line.push_back(At(point.x, point.y));
    }
    const PlotBox frame{kFrameLeft, kFrameTop, kFrameRight, kFrameBottom};
    const auto placed = PlaceLabels({frame, spots, kMarker, line, level_texts_}, requests);
    std::string svg;
    for (size_t i = 0; i < placed.size(); ++i) {
      if (!placed[i]) continue;
      const PlotSpot end = NearestOf(*placed[i], spots[i]);
      if (std::hypot(end.x - spots[i].x, end.y - spots[i].y) > kLeaderFrom) {
        svg += Line(spots[i].x, spots[i].y, end.x, end.y, "leader");
      }
      svg += Text(placed[i]->left, placed[i]->bottom - 2.5, "class=\"name\"", shown[i]->name);
    }
    return svg;
  }

  const PlotPanel& panel_;
  PlotAxis x_;
  PlotAxis y_;
  std::vector<PlotBox> level_texts_;
};

std::string Legend(const ScatterPlot& plot) {
  std::string svg;
  double x = kFrameLeft;
  for (size_t s = 0; !plot.panels.empty() && s < plot.panels[0].series.size(); ++s) {
    const std::string& name = plot.panels[0].series[s].name;
    const bool used = std::any_of(plot.panels.begin(), plot.panels.end(), [s](const PlotPanel& panel) {
      return s < panel.series.size() && !panel.series[s].points.empty();
    });
    if (!used) continue;
    svg += Marker(s, {x + kMarker, 66}, name);
    svg += Text(x + 2 * kMarker + 6, 70, "font-size=\"12.5\"", name);
    x += 2 * kMarker + 30 + kLegendAdvance * static_cast<double>(name.size());
  }
  return svg;
}

}  // namespace

std::string EscapeXml(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t bytes = CharacterBytes(text);
    if (bytes == 0) {
      out += '?';
    } else if (text[0] == '&') {
      out += "&amp;";
    } else if (text[0] == '<') {
      out += "&lt;";
    } else if (text[0] == '>') {
      out += "&gt;";
    } else if (text[0] == '"') {
      out += "&quot;";
    } else {
      out += text.substr(0, bytes);
    }
    text.remove_prefix(std::max<size_t>(bytes, 1));
  }
  return out;
}

std::vector<PlotPoint> Frontier(std::span<const PlotSeries> series, bool high_is_better) {
  std::vector<PlotPoint> points;
  for (const PlotSeries& one : series) {
    for (const PlotPoint& point : one.points) {
      if (std::isfinite(point.x) && std::isfinite(point.y)) points.push_back(point);
    }
  }
  const auto better = [high_is_better](double a, double b) { return high_is_better ? a > b : a < b; };
  std::sort(points.begin(), points.end(), [&](const PlotPoint& a, const PlotPoint& b) {
    return a.x != b.x ? a.x < b.x : better(a.y, b.y);
  });
  std::vector<PlotPoint> front;
  for (PlotPoint& point : points) {
    if (front.empty() || better(point.y, front.back().y)) front.push_back(std::move(point));
  }
  return front;
}

std::string ScatterPlot::ToSvg() const {
  const double height = kHeadHeight + kPanelHeight * static_cast<double>(panels.size());
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" "
      "role=\"img\">\n<title>{2}</title>\n",
      kWidth, height, EscapeXml(title));
  svg += kStyle;
  svg += fmt::format("<rect class=\"ground\" width=\"{}\" height=\"{}\"/>\n", kWidth, height);
  svg += Text(kFrameLeft, 26, "font-size=\"17\" font-weight=\"600\"", title);
  svg += Text(kFrameLeft, 46, "class=\"faint\" font-size=\"12\"", subtitle);
  svg += Legend(*this);
  for (size_t i = 0; i < panels.size(); ++i) {
    svg += fmt::format("<g transform=\"translate(0 {})\">\n",
                       kHeadHeight + kPanelHeight * static_cast<double>(i));
    svg += PanelPainter(panels[i]).Paint();
    svg += "</g>\n";
  }
  return svg + "</svg>\n";
}

base::Status ScatterPlot::WriteSvg(const std::string& path) const {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << ToSvg();
  file.close();
  if (!file) return base::Unavailable("{}: cannot be written", path);
  return base::Status::Ok();
}

}  // namespace kvplane::cli

// Where the names of points stand in a scatter plot, so that none covers another, a marker or the frame.
//
// Approach: greedy. Points in the order given; each takes the nearest free place out of a fixed fan of
// directions and distances around it. Point-feature labelling is NP-hard (Marks and Shieber, 1991); a few
// dozen names leave enough room for the first free place, and a name that finds none is left out rather than
// printed over another.
//
// Units are pixels, y grows downwards. Thread safety: pure functions.
#pragma once

#include <optional>
#include <span>
#include <vector>

namespace kvplane::cli {

struct PlotSpot {
  double x = 0;
  double y = 0;
};

struct PlotBox {
  double left = 0;
  double top = 0;
  double right = 0;
  double bottom = 0;

  bool Overlaps(const PlotBox& other) const {
    return left < other.right && other.left < right && top < other.bottom && other.top < bottom;
  }
  bool Contains(const PlotBox& other) const {
    return left <= other.left && top <= other.top && other.right <= right && other.bottom <= bottom;
  }
};

// The point of `box` nearest to `spot`.
PlotSpot NearestOf(const PlotBox& box, const PlotSpot& spot);

struct LabelRequest {
  PlotSpot at;
  double width = 0;
  double height = 0;
};

// What is drawn before the names.
struct PlotObstacles {
  PlotBox frame;
  std::span<const PlotSpot> markers;
  double marker = 0;               // half of a marker's width
  std::span<const PlotSpot> line;  // a polyline that names keep off where they can
  std::span<const PlotBox> boxes;  // other text
};

// placed[i]: the box of label i; none: no room. Boxes lie inside the frame, overlap neither each other, nor
// the squares of the markers, nor a leader line of an earlier label.
std::vector<std::optional<PlotBox>> PlaceLabels(const PlotObstacles& obstacles,
                                                std::span<const LabelRequest> labels);

}  // namespace kvplane::cli

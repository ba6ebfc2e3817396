#include "apps/cli/plot/label_placement.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace kvplane::cli {
namespace {

constexpr int kDirections = 24;
constexpr double kDistances[] = {3, 8, 14, 22, 32, 44, 58, 74, 92, 112};  // beyond the marker
constexpr double kGap = 1.5;  // around each label, so that neighbours do not touch

struct Leader {
  PlotSpot from;
  PlotSpot to;
};

PlotBox Grow(const PlotBox& box, double by) {
  return {box.left - by, box.top - by, box.right + by, box.bottom + by};
}

// The box of the label's size that lies `distance` away from `at` in the direction `angle`.
PlotBox BoxAt(const LabelRequest& label, double distance, double angle) {
  const double dx = std::cos(angle);
  const double dy = std::sin(angle);
  const double x = label.at.x + distance * dx + dx * label.width / 2;
  const double y = label.at.y + distance * dy + dy * label.height / 2;
  return {x - label.width / 2, y - label.height / 2, x + label.width / 2, y + label.height / 2};
}

// Whether the segment enters the box (Liang and Barsky, "A new concept and method for line clipping", 1984).
bool Crosses(const Leader& leader, const PlotBox& box) {
  double enter = 0;
  double leave = 1;
  const auto clip = [&](double direction, double distance) {
    if (direction == 0) return distance >= 0;
    const double at = distance / direction;
    if (direction < 0) {
      enter = std::max(enter, at);
    } else {
      leave = std::min(leave, at);
    }
    return enter <= leave;
  };
  const double dx = leader.to.x - leader.from.x;
  const double dy = leader.to.y - leader.from.y;
  return clip(-dx, leader.from.x - box.left) && clip(dx, box.right - leader.from.x) &&
         clip(-dy, leader.from.y - box.top) && clip(dy, box.bottom - leader.from.y);
}

}  // namespace

PlotSpot NearestOf(const PlotBox& box, const PlotSpot& spot) {
  return {std::clamp(spot.x, box.left, box.right), std::clamp(spot.y, box.top, box.bottom)};
}

std::vector<std::optional<PlotBox>> PlaceLabels(const PlotBox& frame, std::span<const PlotSpot> markers,
                                                double marker, std::span<const LabelRequest> labels) {
  std::vector<PlotBox> taken;
  for (const PlotSpot& spot : markers) {
    taken.push_back({spot.x - marker, spot.y - marker, spot.x + marker, spot.y + marker});
  }
  std::vector<Leader> leaders;
  std::vector<PlotBox> labelled;
  const auto fits = [&](const LabelRequest& label, const PlotBox& box) {
    const auto hit = [&](const PlotBox& other) { return other.Overlaps(box); };
    if (!frame.Contains(box) || std::any_of(taken.begin(), taken.end(), hit)) return false;
    if (std::any_of(leaders.begin(), leaders.end(), [&](const Leader& l) { return Crosses(l, box); })) {
      return false;
    }
    const Leader own{label.at, NearestOf(box, label.at)};
    return std::none_of(labelled.begin(), labelled.end(),
                        [&](const PlotBox& other) { return Crosses(own, other); });
  };
  const auto find = [&](const LabelRequest& label) -> std::optional<PlotBox> {
    for (const double distance : kDistances) {
      for (int i = 0; i < kDirections; ++i) {
        // Right, left, above, below first, then between them.
        const double turn = (i % 4) * 0.25 + (i / 4) / static_cast<double>(kDirections);
        const PlotBox box = BoxAt(label, marker + kGap + distance, 2 * std::numbers::pi * turn);
        if (fits(label, Grow(box, kGap))) return box;
      }
    }
    return std::nullopt;
  };
  std::vector<std::optional<PlotBox>> placed;
  for (const LabelRequest& label : labels) {
    const std::optional<PlotBox> box = find(label);
    placed.push_back(box);
    if (!box) continue;
    taken.push_back(*box);
    labelled.push_back(*box);
    leaders.push_back({label.at, NearestOf(*box, label.at)});
  }
  return placed;
}

}  // namespace kvplane::cli

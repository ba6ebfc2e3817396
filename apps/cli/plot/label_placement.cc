#include "apps/cli/plot/label_placement.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace kvplane::cli {
namespace {

constexpr int kDirections = 24;
constexpr double kDistances[] = {3, 8, 14, 22, 32, 44, 58, 74, 92, 112, 135, 160, 190};  // beyond the marker
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

class Placement {
 public:
  explicit Placement(const PlotObstacles& obstacles)
      : frame_(obstacles.frame),
        marker_(obstacles.marker),
        taken_(obstacles.boxes.begin(), obstacles.boxes.end()) {
    for (const PlotSpot& spot : obstacles.markers) {
      taken_.push_back({spot.x - marker_, spot.y - marker_, spot.x + marker_, spot.y + marker_});
    }
    for (size_t i = 1; i < obstacles.line.size(); ++i) {
      line_.push_back({obstacles.line[i - 1], obstacles.line[i]});
    }
  }

  std::optional<PlotBox> Place(const LabelRequest& label) {
    std::optional<PlotBox> box = Find(label, true);
    if (!box) box = Find(label, false);
    if (!box) return box;
    taken_.push_back(*box);
    labelled_.push_back(*box);
    leaders_.push_back({label.at, NearestOf(*box, label.at)});
    return box;
  }

 private:
  std::optional<PlotBox> Find(const LabelRequest& label, bool off_the_line) const {
    for (const double distance : kDistances) {
      for (int i = 0; i < kDirections; ++i) {
        // Right, below, left, above first, then between them.
        const double turn = (i % 4) * 0.25 + (i / 4) / static_cast<double>(kDirections);
        const PlotBox box = BoxAt(label, marker_ + kGap + distance, 2 * std::numbers::pi * turn);
        if (Fits(label, Grow(box, kGap), off_the_line)) return box;
      }
    }
    return std::nullopt;
  }

  bool Fits(const LabelRequest& label, const PlotBox& box, bool off_the_line) const {
    const auto crosses = [&](const Leader& leader) { return Crosses(leader, box); };
    if (!frame_.Contains(box)) return false;
    if (std::any_of(taken_.begin(), taken_.end(),
                    [&](const PlotBox& other) { return other.Overlaps(box); }) ||
        std::any_of(leaders_.begin(), leaders_.end(), crosses) ||
        (off_the_line && std::any_of(line_.begin(), line_.end(), crosses))) {
      return false;
    }
    const Leader own{label.at, NearestOf(box, label.at)};
    return std::none_of(labelled_.begin(), labelled_.end(),
                        [&](const PlotBox& other) { return Crosses(own, other); });
  }

  PlotBox frame_;
  double marker_;
  std::vector<PlotBox> taken_;     // markers and names
  std::vector<PlotBox> labelled_;  // names
  std::vector<Leader> leaders_;
  std::vector<Leader> line_;
};

}  // namespace

PlotSpot NearestOf(const PlotBox& box, const PlotSpot& spot) {
  return {std::clamp(spot.x, box.left, box.right), std::clamp(spot.y, box.top, box.bottom)};
}

std::vector<std::optional<PlotBox>> PlaceLabels(const PlotObstacles& obstacles,
                                                std::span<const LabelRequest> labels) {
  std::vector<std::optional<PlotBox>> placed;
  Placement placement(obstacles);
  for (const LabelRequest& label : labels) placed.push_back(placement.Place(label));
  return placed;
}

}  // namespace kvplane::cli

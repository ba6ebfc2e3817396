#include "kvplane/profile/strategy_enumerator.h"

#include <fmt/format.h>

#include <deque>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "kvplane/base/check.h"
#include "kvplane/base/edit_distance.h"
#include "kvplane/codec/dominated.h"
#include "kvplane/profile/strategy_grid.h"

namespace kvplane::profile {
namespace {

using codec::SideStrategy;

// A parsed chain, kept once however many points use it.
struct SideChain {
  SideStrategy strategy;
  uint32_t id = 0;  // equal chains of one side have equal ids
  bool dominated = false;
  bool needs_profile = false;
  std::string_view subspace;
};

// The chains of one side, by template text and by canonical text.
class ChainTable {
 public:
  explicit ChainTable(tensor::Side side) : side_(side) {}

  // Null when the chain breaks a rule.
  const SideChain* Get(const std::string& text, std::string_view subspace) {
    const auto [at, is_new] = by_text_.try_emplace(text, nullptr);
    if (!is_new) return at->second;
    base::Result<SideStrategy> parsed = SideStrategy::Parse(text, side_);
    if (!parsed.ok()) return nullptr;
    const auto [same, is_first] = by_canonical_.try_emplace(parsed->ToString(), nullptr);
    if (is_first) {
      const bool dominated = codec::Dominated(*parsed);
      const bool needs_profile = parsed->needs_profile();
      chains_.push_back(
          {*std::move(parsed), static_cast<uint32_t>(chains_.size()), dominated, needs_profile, subspace});
      same->second = &chains_.back();
    }
    at->second = same->second;
    return at->second;
  }

  const std::deque<SideChain>& chains() const { return chains_; }

 private:
  tensor::Side side_;
  std::deque<SideChain> chains_;  // stable addresses
  std::unordered_map<std::string, const SideChain*> by_text_;
  std::unordered_map<std::string, const SideChain*> by_canonical_;
};

// A template cut into literal text and axes, so that a point is put together without searching.
class SideTemplate {
 public:
  SideTemplate(std::string_view text, std::span<const GridAxis> axes) : axes_(axes) {
    while (!text.empty()) {
      const size_t open = text.find('{');
      pieces_.push_back({text.substr(0, open), 0, false});
      if (open == std::string_view::npos) break;
      const size_t close = text.find('}', open);
      KVPLANE_CHECK(close != std::string_view::npos);
      pieces_.push_back({{}, AxisOf(text.substr(open + 1, close - open - 1)), true});
      text.remove_prefix(close + 1);
    }
  }

  bool Uses(size_t axis) const {
    for (const Piece& piece : pieces_) {
      if (piece.is_axis && piece.axis == axis) return true;
    }
    return false;
  }

  // The chain of a point; slots that are empty are left out.
  void Expand(std::span<const size_t> point, std::string& out) const {
    out.clear();
    for (const Piece& piece : pieces_) {
      Append(piece.is_axis ? axes_[piece.axis].values[point[piece.axis]] : piece.literal, out);
    }
  }

 private:
  struct Piece {
    std::string_view literal;
    size_t axis;
    bool is_axis;
  };

  size_t AxisOf(std::string_view name) const {
    for (size_t i = 0; i < axes_.size(); ++i) {
      if (axes_[i].name == name) return i;
    }
    KVPLANE_CHECK(false);  // a template of the table names an axis that its sub-space has not
  }

  static void Append(std::string_view text, std::string& out) {
    for (const char c : text) {
      if (c == ' ') continue;
      if (c == '|' && (out.empty() || out.back() == '|')) continue;
      out += c;
    }
  }

  std::span<const GridAxis> axes_;
  std::vector<Piece> pieces_;
};

// The index of the axis `name_v` for an axis `name_k`, and the other way round.
std::optional<size_t> PartnerOf(std::span<const GridAxis> axes, size_t axis) {
  const std::string_view name = axes[axis].name;
  if (!name.ends_with("_v")) return std::nullopt;
  const std::string partner = fmt::format("{}_k", name.substr(0, name.size() - 2));
  for (size_t i = 0; i < axes.size(); ++i) {
    if (axes[i].name == partner) return i;
  }
  return std::nullopt;
}

class Enumeration {
 public:
  Enumeration(const EnumerateOptions& options, const std::function<bool(const GridPoint&)>& visit)
      : options_(options), visit_(visit) {}

  void Run(std::span<const std::string_view> subspaces) {
    for (const std::string_view name : subspaces) {
      const Subspace* subspace = FindSubspace(name);
      KVPLANE_CHECK(subspace != nullptr);
      if (!Walk(*subspace)) return;
    }
    if (options_.side_pairs == SidePairs::kAll) PairAll();
  }
  const EnumerateCounts& counts() const { return counts_; }

 private:
  // Every point of a sub-space. False: the end has been asked for.
  bool Walk(const Subspace& subspace) {
    const SideTemplate key(subspace.key, subspace.axes);
    const SideTemplate value(subspace.value, subspace.axes);
    std::vector<size_t> point(subspace.axes.size(), 0);
    std::string key_text, value_text;
    do {
      if (options_.side_pairs == SidePairs::kSame && !PartnersAgree(subspace.axes, point)) continue;
      key.Expand(point, key_text);
      value.Expand(point, value_text);
      const SideChain* k = keys_.Get(key_text, subspace.name);
      const SideChain* v = values_.Get(value_text, subspace.name);
      if (k == nullptr || v == nullptr) {
        ++counts_.illegal;
      } else if (options_.side_pairs != SidePairs::kAll && !Give(*k, *v, subspace.name)) {
        return false;
      }
    } while (Advance(subspace.axes, point));
    return true;
  }

  void PairAll() {
    for (const SideChain& k : keys_.chains()) {
      for (const SideChain& v : values_.chains()) {
        if (!Give(k, v, k.subspace)) return;
      }
    }
  }

  bool Give(const SideChain& k, const SideChain& v, std::string_view subspace) {
    if (options_.side_pairs != SidePairs::kAll && !seen_.insert(uint64_t{k.id} << 32 | v.id).second) {
      ++counts_.duplicates;
      return true;
    }
    const bool dominated = k.dominated || v.dominated;
    if ((dominated && !options_.dominated) ||
        ((k.needs_profile || v.needs_profile) && !options_.needs_profile)) {
      ++counts_.left_out;
      return true;
    }
    ++counts_.points;
    if (!visit_({codec::Strategy(k.strategy, v.strategy), subspace, dominated})) return false;
    return options_.limit == 0 || counts_.points < options_.limit;
  }

  static bool PartnersAgree(std::span<const GridAxis> axes, std::span<const size_t> point) {
    for (size_t i = 0; i < axes.size(); ++i) {
      const std::optional<size_t> partner = PartnerOf(axes, i);
      if (partner && point[i] != point[*partner]) return false;
    }
    return true;
  }

  // False: that was the last point.
  static bool Advance(std::span<const GridAxis> axes, std::span<size_t> point) {
    for (size_t i = axes.size(); i-- > 0;) {
      if (++point[i] < axes[i].values.size()) return true;
      point[i] = 0;
    }
    return false;
  }

  const EnumerateOptions& options_;
  const std::function<bool(const GridPoint&)>& visit_;
  ChainTable keys_{tensor::Side::kKey};
  ChainTable values_{tensor::Side::kValue};
  std::unordered_set<uint64_t> seen_;  // pairs of chain ids
  EnumerateCounts counts_;
};

base::Status UnknownGrid(std::string_view name) {
  const std::string_view typed = name.substr(0, 64);
  std::string_view nearest = Grids().front().name;
  const auto consider = [&](std::string_view candidate) {
    if (base::EditDistance(typed, candidate) < base::EditDistance(typed, nearest)) nearest = candidate;
  };
  for (const Grid& grid : Grids()) consider(grid.name);
  for (const Subspace& subspace : Subspaces()) consider(subspace.name);
  return base::NotFound("no grid or sub-space '{}'; did you mean '{}'?", typed, nearest);
}

}  // namespace

base::Result<EnumerateCounts> EnumerateStrategies(const EnumerateOptions& options,
                                                  const std::function<bool(const GridPoint&)>& visit) {
  const Grid* grid = FindGrid(options.grid);
  const Subspace* subspace = FindSubspace(options.grid);
  if (grid == nullptr && subspace == nullptr) return UnknownGrid(options.grid);
  Enumeration enumeration(options, visit);
  enumeration.Run(grid != nullptr ? grid->subspaces : std::span(&subspace->name, 1));
  return enumeration.counts();
}

}  // namespace kvplane::profile

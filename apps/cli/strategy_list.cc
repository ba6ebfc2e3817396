#include "apps/cli/strategy_list.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kvplane/codec/stage_registry.h"
#include "kvplane/tensor/kv_view.h"

namespace kvplane::cli {
namespace {

// Splits at the commas outside parentheses: strategies have commas of their own.
void AppendSplit(std::string_view list, std::vector<std::string>& names) {
  int depth = 0;
  std::string name;
  for (const char c : list) {
    if (c == '(') ++depth;
    if (c == ')') --depth;
    if (c == ',' && depth == 0) {
      names.push_back(std::exchange(name, {}));
    } else {
      name += c;
    }
  }
  names.push_back(name);
}

// Whether either side has a call of this slot or stage.
template <typename Key>
bool Uses(const codec::Strategy& strategy, Key key) {
  return std::any_of(std::begin(tensor::kSides), std::end(tensor::kSides), [&](tensor::Side side) {
    return codec::FindCall(strategy.side(side).stages(), key) != nullptr;
  });
}

}  // namespace

std::vector<std::string> SplitStrategyLists(std::span<const std::string> lists) {
  std::vector<std::string> names;
  for (const std::string& list : lists) AppendSplit(list, names);
  return names;
}

std::string_view Name(StrategyFamily family) {
  switch (family) {
    case StrategyFamily::kEntropyCoded:
      return "entropy-coded steps";
    case StrategyFamily::kPublished:
      return "published methods";
    case StrategyFamily::kTransformed:
      return "transform and entropy-coded steps";
    case StrategyFamily::kFixedWidth:
      return "fixed width";
    case StrategyFamily::kLossless:
      return "lossless";
  }
  return "?";
}

StrategyFamily FamilyOf(const codec::Strategy& strategy, bool published) {
  if (!strategy.lossy()) return StrategyFamily::kLossless;
  if (published) return StrategyFamily::kPublished;
  if (!Uses(strategy, codec::kStageEcsq) && !Uses(strategy, codec::kStageTernary)) {
    return StrategyFamily::kFixedWidth;
  }
  return Uses(strategy, codec::Slot::kTransform) ? StrategyFamily::kTransformed
                                                 : StrategyFamily::kEntropyCoded;
}

std::string NamedStrategy::Explanation() const {
  return numbered ? fmt::format("{} is {}", label, strategy.ToString()) : "";
}

base::Result<std::vector<NamedStrategy>> ReadStrategyLists(std::span<const std::string> lists) {
  std::vector<std::string> texts;
  for (const std::string& list : lists) AppendSplit(list, texts);
  if (lists.empty()) {
    for (const codec::Preset& preset : codec::Presets()) texts.emplace_back(preset.name);
  }
  std::vector<NamedStrategy> strategies;
  size_t numbered = 0;
  for (const std::string& text : texts) {
    KVPLANE_ASSIGN_OR_RETURN(const codec::Strategy strategy, codec::Strategy::Parse(text));
    const codec::Preset* preset = codec::FindPreset(text);
    const auto same = std::find_if(strategies.begin(), strategies.end(),
                                   [&](const NamedStrategy& named) { return named.strategy == strategy; });
    if (same == strategies.end()) {
      NamedStrategy named;
      named.strategy = strategy;
      named.numbered = preset == nullptr;
      named.family = FamilyOf(strategy, preset != nullptr && !preset->source.empty());
      named.label = preset != nullptr ? text : fmt::format("s{}", ++numbered);
      strategies.push_back(std::move(named));
    } else if (preset != nullptr && same->label != text && !same->numbered) {
      same->label += " = " + text;
      if (!preset->source.empty()) same->family = FamilyOf(strategy, true);
    }
  }
  return strategies;
}

}  // namespace kvplane::cli

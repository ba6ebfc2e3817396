#include "apps/cli/strategy_list.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

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

}  // namespace

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
      named.published = preset != nullptr && !preset->source.empty();
      named.label = preset != nullptr ? text : fmt::format("s{}", ++numbered);
      strategies.push_back(std::move(named));
    } else if (preset != nullptr && same->label != text && !same->numbered) {
      same->label += " = " + text;
      same->published = same->published || !preset->source.empty();
    }
  }
  return strategies;
}

}  // namespace kvplane::cli

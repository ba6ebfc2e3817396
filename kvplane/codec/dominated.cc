#include "kvplane/codec/dominated.h"

#include <optional>

#include "kvplane/codec/stage_registry.h"

namespace kvplane::codec {
namespace {

std::optional<uint32_t> ValueOf(const StageCall& call, std::string_view param) {
  const std::span<const ParamSpec> specs = StageOf(call).params;
  for (size_t i = 0; i < specs.size(); ++i) {
    if (specs[i].name == param) return call.params[i];
  }
  return std::nullopt;
}

bool HasChoice(const StageCall& call, std::string_view param, std::string_view choice) {
  const std::span<const ParamSpec> specs = StageOf(call).params;
  for (size_t i = 0; i < specs.size(); ++i) {
    if (specs[i].name == param) return specs[i].choices[call.params[i]] == choice;
  }
  return false;
}

// Whether the quantiser of the low band does what the other one does.
bool CodesBandsAlike(const StageCall& quantizer) {
  const std::optional<uint32_t> low = ValueOf(quantizer, "low");
  return !low || *low == 0 || low == ValueOf(quantizer, "m");
}

}  // namespace

std::string_view WhyDominated(const SideStrategy& strategy) {
  const Chain chain = strategy.stages();
  const StageCall* code = FindCall(chain, kStageRans);
  if (FindCall(chain, kStageHadamard) != nullptr && code != nullptr && HasChoice(*code, "table", "class")) {
    return "L2: rotation takes the differences that class tables live on";
  }
  for (const uint8_t id : {kStageHeads, kStageLayers}) {
    const StageCall* bands = FindCall(chain, id);
    if (bands == nullptr) continue;
    const std::optional<uint32_t> ratio = ValueOf(*bands, "ratio");
    if (ratio == 0u || ratio == 100u) return "bands: all heads are in one band";
    const StageCall* quantizer = FindCall(chain, Slot::kQuantize);
    if (quantizer != nullptr && CodesBandsAlike(*quantizer)) return "bands: both bands are coded alike";
  }
  const StageCall* protect = FindCall(chain, kStageProtect);
  if (protect != nullptr && ValueOf(*protect, "sinks") == 0u && ValueOf(*protect, "recent") == 0u) {
    return "protect: nothing is protected";
  }
  return {};
}

}  // namespace kvplane::codec

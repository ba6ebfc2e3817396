#include "kvplane/server/node_choice.h"

#include <vector>

namespace kvplane::server {
namespace {

// The eligible node with the least load; equals take turns.
template <typename Eligible, typename Load>
std::optional<size_t> LeastLoaded(std::span<const NodeView> nodes, uint64_t turn, Eligible eligible,
                                  Load load) {
  std::vector<size_t> best;
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (!eligible(i)) continue;
    if (!best.empty() && load(nodes[i]) > load(nodes[best.front()])) continue;
    if (!best.empty() && load(nodes[i]) < load(nodes[best.front()])) best.clear();
    best.push_back(i);
  }
  if (best.empty()) return std::nullopt;
  return best[static_cast<size_t>(turn % best.size())];
}

}  // namespace

NodeChoice ChooseNodes(std::span<const NodeView> nodes, const ChoiceRequest& request) {
  const auto usable = [&](size_t i, NodeRole role) {
    return nodes[i].role == role && nodes[i].healthy && !request.excluded.contains(i);
  };
  NodeChoice choice;
  choice.decode = LeastLoaded(
      nodes, request.turn, [&](size_t i) { return usable(i, NodeRole::kDecode); },
      [](const NodeView& node) { return node.outstanding_requests; });
  if (!choice.decode || !request.splittable) return choice;
  const std::string& weights = nodes[*choice.decode].model_fingerprint;
  choice.prefill = LeastLoaded(
      nodes, request.turn,
      [&](size_t i) {
        return usable(i, NodeRole::kPrefill) && nodes[i].serves_kv && nodes[i].model_fingerprint == weights;
      },
      [](const NodeView& node) { return node.outstanding_prompt_bytes; });
  return choice;
}

}  // namespace kvplane::server

#include "kvplane/server/node_choice.h"

#include <algorithm>

namespace kvplane::server {
namespace {

// The eligible node with the least load; equals take turns.
template <typename Eligible, typename Load>
std::optional<size_t> LeastLoaded(std::span<const NodeView> nodes, uint64_t turn, Eligible eligible,
                                  Load load) {
  std::vector<size_t> best;
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (!eligible(i)) continue;
    if (!best.empty() && load(i) > load(best.front())) continue;
    if (!best.empty() && load(i) < load(best.front())) best.clear();
    best.push_back(i);
  }
  if (best.empty()) return std::nullopt;
  return best[static_cast<size_t>(turn % best.size())];
}

}  // namespace

uint64_t PrefillWork(const ChoiceRequest& request, size_t node) {
  const uint64_t held = node < request.cached_bytes.size() ? request.cached_bytes[node] : 0;
  const uint64_t cached = std::min(held, request.prompt_bytes);
  return request.prompt_bytes - cached + cached / kReuseGain;
}

NodeChoice ChooseNodes(std::span<const NodeView> nodes, const ChoiceRequest& request) {
  const auto usable = [&](size_t i, NodeRole role) {
    return nodes[i].role == role && nodes[i].healthy && !request.excluded.contains(i);
  };
  const auto decodes = [&](size_t i) { return usable(i, NodeRole::kDecode); };
  const auto prefill_work = [&](size_t i) {
    return nodes[i].outstanding_prompt_bytes + PrefillWork(request, i);
  };
  NodeChoice choice;
  if (request.splittable) {
    choice.decode = LeastLoaded(nodes, request.turn, decodes,
                                [&](size_t i) { return uint64_t{nodes[i].outstanding_requests}; });
    if (!choice.decode) return choice;
    const std::string& weights = nodes[*choice.decode].model_fingerprint;
    const auto prefills = [&](size_t i) {
      return usable(i, NodeRole::kPrefill) && nodes[i].serves_kv && nodes[i].model_fingerprint == weights;
    };
    choice.prefill = LeastLoaded(nodes, request.turn, prefills, prefill_work);
    if (choice.prefill) return choice;
  }
  choice.decode = LeastLoaded(nodes, request.turn, decodes, [&](size_t i) {
    return nodes[i].outstanding_requests * kRunningRequestBytes + prefill_work(i);
  });
  return choice;
}

}  // namespace kvplane::server

// ChooseNodes: which prefill and which decode node gets a request. A pure function, so that every choice can
// be replayed from what the router saw.
//
// Prefill: the node that will have the prompt done first, by the work ahead of it: prompt bytes outstanding
// there plus those of this prompt that it does not hold yet. So a prefix draws a prompt to the node that has
// it exactly as far as the work it saves outweighs that node's longer queue, and a prefix in high demand
// spreads by itself. That is the placement of Preble (Srivatsa et al., "Preble: efficient distributed prompt
// scheduling for LLM serving", 2024) in one cost, where routers of the SGLang kind switch between two rules
// at thresholds of imbalance.
//
// Decode: the fewest requests outstanding (its batch). A decode node that must do the prefill too, because no
// other node can, is chosen by both kinds of work. Ties go round, so that idle nodes share. Nodes are paired
// only when they run the same weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace kvplane::server {

enum class NodeRole { kPrefill, kDecode };

struct NodeView {
  NodeRole role = NodeRole::kDecode;
  bool healthy = false;
  bool serves_kv = false;  // prefill nodes: has a KV endpoint
  std::string model_fingerprint;
  uint64_t outstanding_prompt_bytes = 0;  // of prompts not prefilled yet, without what is reused
  uint32_t outstanding_requests = 0;
};

struct ChoiceRequest {
  bool splittable = true;       // one prompt, one choice: prefill and decode may run on two nodes
  std::set<size_t> excluded{};  // nodes that failed this request already
  uint64_t turn = 0;            // breaks ties; the router counts it up
  uint64_t prompt_bytes = 0;
  // Of those, what each node probably holds already; empty: none does. [nodes]
  std::vector<uint64_t> cached_bytes{};
};

// Prompt bytes that `node` would have to prefill for this request. Reuse is not free: a cached byte costs
// 1/kReuseGain of one that is computed, and more than nothing, so that a long queue of cached prompts is
// seen.
constexpr uint64_t kReuseGain = 8;
uint64_t PrefillWork(const ChoiceRequest& request, size_t node);

// What one running request weighs beside prompt bytes, for nodes that do both: its share of every step.
constexpr uint64_t kRunningRequestBytes = 4096;

// Indices into the nodes. `prefill` only together with `decode`; neither: no node can take it.
struct NodeChoice {
  std::optional<size_t> prefill;
  std::optional<size_t> decode;
};

NodeChoice ChooseNodes(std::span<const NodeView> nodes, const ChoiceRequest& request);

}  // namespace kvplane::server

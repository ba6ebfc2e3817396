// ChooseNodes: which prefill and which decode node gets a request. A pure function, so that every choice can
// be replayed from what the router saw.
//
// Prefill: least outstanding prompt bytes (work ahead in its queue). Decode: least outstanding requests (its
// batch). Ties go round, so that idle nodes share. Nodes are paired only when they run the same weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>

namespace kvplane::server {

enum class NodeRole { kPrefill, kDecode };

struct NodeView {
  NodeRole role = NodeRole::kDecode;
  bool healthy = false;
  bool serves_kv = false;  // prefill nodes: has a KV endpoint
  std::string model_fingerprint;
  uint64_t outstanding_prompt_bytes = 0;
  uint32_t outstanding_requests = 0;
};

struct ChoiceRequest {
  bool splittable = true;       // one prompt, one choice: prefill and decode may run on two nodes
  std::set<size_t> excluded{};  // nodes that failed this request already
  uint64_t turn = 0;            // breaks ties; the router counts it up
};

// Indices into the nodes. `prefill` only together with `decode`; neither: no node can take it.
struct NodeChoice {
  std::optional<size_t> prefill;
  std::optional<size_t> decode;
};

NodeChoice ChooseNodes(std::span<const NodeView> nodes, const ChoiceRequest& request);

}  // namespace kvplane::server

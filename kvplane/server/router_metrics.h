// RouterMetrics: what the router counts and times, as Prometheus text.
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "kvplane/base/clock.h"

namespace kvplane::server {

struct NodeSample {
  std::string address;
  std::string_view role;
  bool healthy = false;
  uint32_t outstanding_requests = 0;
};

class RouterMetrics {
 public:
  RouterMetrics();
  ~RouterMetrics();

  void CountHttp(std::string_view route, int status);
  // Why an attempt was given up: "prefill_failed", "decode_failed".
  void CountRetry(std::string_view reason);
  // KV taken back from a prefill node, by what the node found, or "failed".
  void CountWithdrawal(std::string_view result);
  // "split" or "plain".
  void CountPlacement(std::string_view placement);
  // Prompt bytes placed, and how many of them the node is expected to hold already.
  void CountPrompt(uint64_t bytes, uint64_t expected_cached);
  void ObserveAnswer(base::Duration first_byte, base::Duration total);

  std::string Render(std::span<const NodeSample> nodes, size_t connections) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kvplane::server

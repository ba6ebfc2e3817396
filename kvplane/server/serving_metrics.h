// ServingMetrics: what a node counts and times, as Prometheus text (docs/api.md lists the families).
//
// Thread safety: all methods may be called from any thread.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "kvplane/base/clock.h"
#include "kvplane/engine/engine.h"

namespace kvplane::server {

class ServingMetrics {
 public:
  // `role` and `model` label kvplane_build_info.
  ServingMetrics(std::string_view role, std::string_view model);
  ~ServingMetrics();

  // One answered HTTP request. `route` is a known path or "other", so that clients cannot grow the registry.
  void CountHttp(std::string_view route, int status);
  // One finished generation: "stop", "length", "cancelled" or "failed". Times go to the histograms only where
  // tokens came.
  void CountGeneration(std::string_view outcome, uint32_t tokens, base::Duration ttft, base::Duration total);

  std::string Render(const engine::EngineStats& stats, size_t connections) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Version, instruction set and compiler, for every kvplane_build_info.
struct BuildInfo {
  std::string_view version;
  std::string_view isa;
  std::string_view compiler;
};
BuildInfo CurrentBuild();

}  // namespace kvplane::server

// Recorder: an EventSink that keeps a request's events and lets a test wait for them. For tests only.
//
// Thread safety: OnToken and OnFinish on the engine's thread, the rest from any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/base/mutex.h"
#include "kvplane/engine/engine.h"

namespace kvplane::engine {

class Recorder final : public EventSink {
 public:
  void OnToken(const TokenEvent& event) override;
  void OnFinish(const FinishEvent& event) override;

  // False when it did not happen within kPatience.
  bool WaitForFinish();
  bool WaitForTokens(size_t count);

  std::vector<int32_t> tokens() const;
  std::vector<TokenEvent> events() const;
  FinishEvent finish() const;  // requires a finish
  // Tokens came with indices 0, 1, 2..., one finish and nothing after it.
  bool in_order() const;

  static constexpr base::Duration kPatience = std::chrono::seconds(120);  // sanitizers on a busy machine

 private:
  mutable base::Mutex mutex_;
  base::CondVar changed_;
  std::vector<TokenEvent> events_ KVPLANE_GUARDED_BY(mutex_);
  std::optional<FinishEvent> finish_ KVPLANE_GUARDED_BY(mutex_);
  bool out_of_order_ KVPLANE_GUARDED_BY(mutex_) = false;
};

}  // namespace kvplane::engine

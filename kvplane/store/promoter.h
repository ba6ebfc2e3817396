// Promoter: puts together what readers read of slower tiers, and when somebody has read a whole object in
// order from its first byte hands it on to the fast tier. The parts are the readers' own Slices; they are
// joined on a thread of the promoter, so that no reader pays for the copy.
//
// Bounded: objects are remembered from look-ups (kMaxRemembered of them, the oldest forgotten first), parts
// and objects on their way count against `max_bytes` (the oldest assembly is given up first; one object alone
// may exceed it). Parts whose rest nobody reads, as it was computed instead, are let go after `patience`.
//
// Thread safety: all members may be called from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/store/entry.h"

namespace kvplane::store {

struct PromoterStats {
  uint64_t handed_on = 0;
  uint64_t given_up = 0;  // no memory for it, read out of order, or the rest was not read in time
  uint64_t held_bytes = 0;
};

struct PromoterOptions {
  uint64_t max_bytes = 0;
  uint64_t max_object_bytes = 0;  // larger ones are left where they are
  base::Duration patience = std::chrono::seconds(30);
};

class Promoter {
 public:
  static constexpr size_t kMaxRemembered = 16'384;

  // `epoch` is what Delivered() got with the first part: the sink compares it to see whether something was
  // erased meanwhile. Called from the promoter's thread.
  using Sink = std::function<void(const StoreKey& key, const EntryMeta& meta, Slice object, uint64_t epoch)>;

  static std::unique_ptr<Promoter> Create(base::Clock& clock, const PromoterOptions& options, Sink sink);
  virtual ~Promoter() = default;

  // A look-up found the object in a slower tier.
  virtual void Found(const StoreKey& key, const EntryInfo& info) = 0;
  // A reader got these bytes of it.
  virtual void Delivered(const StoreKey& key, uint64_t offset, const Slice& bytes, uint64_t epoch) = 0;

  // Until everything complete was handed on.
  virtual base::Status Drain(base::TimePoint deadline) = 0;
  virtual PromoterStats stats() const = 0;
  virtual void Shutdown() = 0;
};

}  // namespace kvplane::store

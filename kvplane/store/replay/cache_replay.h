// Replays of block traces on the eviction policies of the memory tier, and on a stack of memory over disk.
//
// A request finds the longest unbroken prefix of its blocks, counts it as hits and uses it, tail first; then
// it puts the blocks it did not find, in order. Every block weighs 1. This is what an engine over a
// TieredStore does, without time passing between the two.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>

#include "kvplane/store/eviction_policy.h"
#include "kvplane/store/replay/block_trace.h"
#include "kvplane/store/s3_fifo.h"

namespace kvplane::store {

struct ReplayPolicy {
  PolicyKind kind = PolicyKind::kS3Fifo;
  S3FifoShape shape{};
};

// Blocks; 0: unbounded.
struct ReplayCapacity {
  uint64_t memory = 0;
  uint64_t disk = 0;
  bool has_disk = false;
};

struct ReplayResult {
  uint64_t blocks = 0;
  uint64_t memory_hits = 0;
  uint64_t disk_hits = 0;
  uint64_t disk_writes = 0;
  uint64_t disk_writes_again = 0;  // of them: after a life in memory, or used late in its life on disk

  double memory_ratio() const { return Ratio(memory_hits); }
  double disk_ratio() const { return Ratio(disk_hits); }
  double ratio() const { return Ratio(memory_hits + disk_hits); }

 private:
  double Ratio(uint64_t hits) const {
    return blocks == 0 ? 0 : static_cast<double>(hits) / static_cast<double>(blocks);
  }
};

// The disk is a FIFO; blocks are written to it when they are put, again when they leave memory after a use
// and the disk no longer has them, and again when they are found there in the last quarter of their life.
// Blocks found on disk go up to memory.
ReplayResult Replay(const BlockTrace& trace, const ReplayPolicy& policy, const ReplayCapacity& capacity);

}  // namespace kvplane::store

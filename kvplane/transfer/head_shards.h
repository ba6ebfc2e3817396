// Head shards: who sends which KV heads to whom when prefill and decode nodes cut the model differently.
//
// Tensor-parallel nodes hold a contiguous share of the KV heads each. A prefill group of N and a decode group
// of M need no common divisor: a KV head is the smallest unit a tile is cut by, so that every pair of ranks
// whose shares meet has one transfer of its own, of the heads they share (KvDescriptor::first_head). With
// more ranks than heads each head lies on several ranks, as serving engines replicate it; every receiver then
// gets its copy from one of the senders that have it, the copies spread evenly.
//
// Thread safety: pure functions.
#pragma once

#include <cstdint>
#include <vector>

#include "kvplane/base/status.h"

namespace kvplane::transfer {

struct HeadRange {
  uint32_t first = 0;  // of the model
  uint32_t count = 0;
  bool operator==(const HeadRange&) const = default;
};

// The heads of rank `rank` of `ranks`. Up to one rank per head: as even as whole heads allow, the larger
// shares first; beyond that one head per rank, in blocks of equal ranks. Requires: rank < ranks, kv_heads and
// ranks at least 1.
HeadRange HeadsOfRank(uint32_t kv_heads, uint32_t ranks, uint32_t rank);

// One transfer between a prefill rank and a decode rank.
struct HeadRoute {
  uint32_t sender = 0;
  uint32_t receiver = 0;
  HeadRange heads;
  bool operator==(const HeadRoute&) const = default;
};

constexpr uint32_t kMaxRanks = 4096;

// Every head of every receiver, exactly once; in order of (receiver, first head). kInvalidArgument: a number
// is zero or beyond its bound (kMaxKvHeads, kMaxRanks).
base::Result<std::vector<HeadRoute>> RouteHeads(uint32_t kv_heads, uint32_t senders, uint32_t receivers);

}  // namespace kvplane::transfer

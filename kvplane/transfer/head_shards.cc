#include "kvplane/transfer/head_shards.h"

#include <algorithm>

#include "kvplane/base/check.h"
#include "kvplane/transfer/tile_grid.h"

namespace kvplane::transfer {
namespace {

// Ranks that hold the one head `head`, when there are more ranks than heads: [first, first + count).
HeadRange RanksOfHead(uint32_t kv_heads, uint32_t ranks, uint32_t head) {
  const uint32_t each = ranks / kv_heads;
  const uint32_t larger = ranks % kv_heads;  // the first so many heads lie on one rank more
  return {head * each + std::min(head, larger), each + (head < larger ? 1u : 0u)};
}

}  // namespace

HeadRange HeadsOfRank(uint32_t kv_heads, uint32_t ranks, uint32_t rank) {
  KVPLANE_CHECK(kv_heads > 0 && rank < ranks);
  if (ranks <= kv_heads) {
    const uint32_t each = kv_heads / ranks;
    const uint32_t larger = kv_heads % ranks;
    return {rank * each + std::min(rank, larger), each + (rank < larger ? 1u : 0u)};
  }
  const uint32_t each = ranks / kv_heads;
  const uint32_t larger = ranks % kv_heads;
  const uint32_t in_larger = larger * (each + 1);
  const uint32_t head = rank < in_larger ? rank / (each + 1) : larger + (rank - in_larger) / each;
  return {head, 1};
}

base::Result<std::vector<HeadRoute>> RouteHeads(uint32_t kv_heads, uint32_t senders, uint32_t receivers) {
  if (kv_heads == 0 || kv_heads > kMaxKvHeads) {
    return base::InvalidArgument("{} KV heads; 1 to {} are possible", kv_heads, kMaxKvHeads);
  }
  if (senders == 0 || senders > kMaxRanks || receivers == 0 || receivers > kMaxRanks) {
    return base::InvalidArgument("{} prefill and {} decode ranks; 1 to {} of each are possible", senders,
                                 receivers, kMaxRanks);
  }
  std::vector<HeadRoute> routes;
  for (uint32_t receiver = 0; receiver < receivers; ++receiver) {
    const HeadRange wanted = HeadsOfRank(kv_heads, receivers, receiver);
    if (senders > kv_heads) {
      // Copies: receiver ranks take turns among the ranks that hold the head.
      for (uint32_t head = wanted.first; head < wanted.first + wanted.count; ++head) {
        const HeadRange holders = RanksOfHead(kv_heads, senders, head);
        routes.push_back({holders.first + receiver % holders.count, receiver, {head, 1}});
      }
      continue;
    }
    for (uint32_t sender = 0; sender < senders; ++sender) {
      const HeadRange held = HeadsOfRank(kv_heads, senders, sender);
      const uint32_t first = std::max(held.first, wanted.first);
      const uint32_t last = std::min(held.first + held.count, wanted.first + wanted.count);
      if (first < last) routes.push_back({sender, receiver, {first, last - first}});
    }
  }
  return routes;
}

}  // namespace kvplane::transfer

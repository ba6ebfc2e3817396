// Where keys live in a Redis Cluster: hash slots, the map from slots to nodes, redirections.
//
// Specification: redis.io, "Redis cluster specification": key distribution model, MOVED and ASK redirection,
// CLUSTER SLOTS.
//
// Thread safety: values and pure functions.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kvplane/base/status.h"
#include "kvplane/store/redis/resp.h"

namespace kvplane::store {

constexpr uint32_t kRedisSlots = 16'384;
// Masters of one cluster; the specification recommends at most about 1,000 nodes.
constexpr size_t kMaxRedisNodes = 1024;
// What CLUSTER SLOTS of such a cluster may have: ranges that alternate, replicas, and their metadata.
constexpr RespLimits kClusterSlotsLimits = {.max_bulk_bytes = 512, .max_elements = 1 << 18};

struct RedisAddress {
  std::string host;
  uint16_t port = 0;

  auto operator<=>(const RedisAddress&) const = default;
  std::string ToString() const;  // "10.0.0.7:6379", "[::1]:6379"
};

// CRC-16/XMODEM: polynomial 0x1021, initial value 0.
uint16_t Crc16(std::string_view bytes);

// CRC-16 of the key, or of what stands between its first '{' and the next '}' when that is not empty.
uint16_t RedisSlot(std::string_view key);

// Which master serves a slot. Slots may have none while a cluster is being built or is broken.
class SlotMap {
 public:
  SlotMap() { owner_.fill(kNone); }
  // A server without cluster mode: all slots.
  static SlotMap Single(RedisAddress address);

  const RedisAddress* Find(uint16_t slot) const {
    return owner_[slot] == kNone ? nullptr : &nodes_[owner_[slot]];
  }
  // False when the map has too many nodes already.
  bool Assign(uint16_t first, uint16_t last, const RedisAddress& address);
  bool complete() const;
  const std::vector<RedisAddress>& nodes() const { return nodes_; }

 private:
  static constexpr uint16_t kNone = 0xffff;

  std::vector<RedisAddress> nodes_;
  std::array<uint16_t, kRedisSlots> owner_{};
};

// The masters in a reply to CLUSTER SLOTS. A node that does not know its own address is `asked`. kCorrupt.
base::Result<SlotMap> ParseClusterSlots(const RespValue& reply, const RedisAddress& asked);

// What the node that was asked says of itself in a reply to CLUSTER NODES: its epoch, its slots, and those on
// their way to or from it, as text that two replies can be compared by. Nothing where it is not among them.
std::optional<std::string_view> OwnSlots(std::string_view nodes);
// Whether some slots of such a text are on their way.
bool SlotsAreMoving(std::string_view own_slots);

struct RedisRedirect {
  bool ask = false;  // ASK: this request only; else MOVED: from now on
  uint16_t slot = 0;
  RedisAddress to;
};

// "MOVED 3999 127.0.0.1:6381"; nothing when the error is another one or malformed.
std::optional<RedisRedirect> ParseRedirect(std::string_view error, const RedisAddress& asked);

}  // namespace kvplane::store

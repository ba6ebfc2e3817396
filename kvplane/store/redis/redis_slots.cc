#include "kvplane/store/redis/redis_slots.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "kvplane/transport/endpoint.h"

namespace kvplane::store {
namespace {

constexpr std::array<uint16_t, 256> MakeCrcTable() {
  std::array<uint16_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte << 8;
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 0x8000u) != 0 ? (crc << 1) ^ 0x1021u : crc << 1;
    table[byte] = static_cast<uint16_t>(crc);
  }
  return table;
}
constexpr std::array<uint16_t, 256> kCrcTable = MakeCrcTable();

base::Result<uint16_t> Number(const RespValue& value, uint32_t limit) {
  if (value.kind != RespKind::kInteger || value.integer < 0 || value.integer >= limit) {
    return base::Corrupt("CLUSTER SLOTS: {} is not below {}", value.integer, limit);
  }
  return static_cast<uint16_t>(value.integer);
}

constexpr uint32_t kPorts = 65'536;

// [host or nil, port, node id, metadata...]
base::Result<RedisAddress> NodeAddress(const RespValue& node, const RedisAddress& asked) {
  if (node.kind != RespKind::kArray || node.array.size() < 2) {
    return base::Corrupt("CLUSTER SLOTS: a node without host and port");
  }
  RedisAddress address{.host = std::string(node.array[0].view())};
  // Nil or empty: "the host you asked"; "?": a host name that was announced but is not known.
  if (address.host.empty() || address.host == "?") address.host = asked.host;
  KVPLANE_ASSIGN_OR_RETURN(address.port, Number(node.array[1], kPorts));
  return address;
}

}  // namespace

std::string RedisAddress::ToString() const { return transport::FormatHostPort(host, port); }

uint16_t Crc16(std::string_view bytes) {
  uint32_t crc = 0;
  for (const char c : bytes) {
    crc = ((crc << 8) & 0xffffu) ^ kCrcTable[((crc >> 8) ^ static_cast<uint8_t>(c)) & 0xffu];
  }
  return static_cast<uint16_t>(crc);
}

uint16_t RedisSlot(std::string_view key) {
  if (const size_t open = key.find('{'); open != std::string_view::npos) {
    const size_t close = key.find('}', open + 1);
    if (close != std::string_view::npos && close > open + 1) key = key.substr(open + 1, close - open - 1);
  }
  return Crc16(key) & (kRedisSlots - 1);
}

SlotMap SlotMap::Single(RedisAddress address) {
  SlotMap map;
  map.Assign(0, kRedisSlots - 1, address);
  return map;
}

bool SlotMap::Assign(uint16_t first, uint16_t last, const RedisAddress& address) {
  auto at = std::find(nodes_.begin(), nodes_.end(), address);
  if (at == nodes_.end()) {
    if (nodes_.size() >= kMaxRedisNodes) return false;
    at = nodes_.insert(nodes_.end(), address);
  }
  const auto index = static_cast<uint16_t>(at - nodes_.begin());
  std::fill(owner_.begin() + first, owner_.begin() + last + 1, index);
  return true;
}

bool SlotMap::complete() const { return std::find(owner_.begin(), owner_.end(), kNone) == owner_.end(); }

base::Result<SlotMap> ParseClusterSlots(const RespValue& reply, const RedisAddress& asked) {
  if (reply.kind != RespKind::kArray) return base::Corrupt("CLUSTER SLOTS: the reply is no array");
  SlotMap map;
  for (const RespValue& range : reply.array) {
    // [first, last, master, replicas...]
    if (range.kind != RespKind::kArray || range.array.size() < 3) {
      return base::Corrupt("CLUSTER SLOTS: a range without master");
    }
    KVPLANE_ASSIGN_OR_RETURN(const uint16_t first, Number(range.array[0], kRedisSlots));
    KVPLANE_ASSIGN_OR_RETURN(const uint16_t last, Number(range.array[1], kRedisSlots));
    if (first > last) return base::Corrupt("CLUSTER SLOTS: a range from {} to {}", first, last);
    KVPLANE_ASSIGN_OR_RETURN(const RedisAddress master, NodeAddress(range.array[2], asked));
    if (!map.Assign(first, last, master)) {
      return base::Corrupt("CLUSTER SLOTS: more than {} masters", kMaxRedisNodes);
    }
  }
  return map;
}

std::optional<std::string_view> OwnSlots(std::string_view nodes) {
  constexpr size_t kFlags = 2;  // fields: id, address, flags, master, ping, pong, epoch, link, slots...
  constexpr size_t kEpoch = 6;
  while (!nodes.empty()) {
    std::string_view rest = nodes.substr(0, nodes.find('\n'));
    nodes.remove_prefix(std::min(nodes.size(), rest.size() + 1));
    bool own = false;
    size_t field = 0;
    for (; field < kEpoch && !rest.empty(); ++field) {
      const std::string_view text = rest.substr(0, rest.find(' '));
      own = own || (field == kFlags && text.find("myself") != text.npos);
      rest.remove_prefix(std::min(rest.size(), text.size() + 1));
    }
    if (own && field == kEpoch) return rest;
  }
  return std::nullopt;
}

bool SlotsAreMoving(std::string_view own_slots) {
  return own_slots.find("->-") != own_slots.npos || own_slots.find("-<-") != own_slots.npos;
}

std::optional<RedisRedirect> ParseRedirect(std::string_view error, const RedisAddress& asked) {
  RedisRedirect out;
  if (error.starts_with("ASK ")) {
    out.ask = true;
  } else if (!error.starts_with("MOVED ")) {
    return std::nullopt;
  }
  const std::string_view rest = error.substr(error.find(' ') + 1);
  const size_t space = rest.find(' ');
  const size_t colon = rest.rfind(':');  // an IPv6 address stands without brackets
  if (space == std::string_view::npos || colon == std::string_view::npos || colon < space)
    return std::nullopt;
  const auto slot = ParseRespInteger(rest.substr(0, space));
  const auto port = ParseRespInteger(rest.substr(colon + 1));
  if (!slot.ok() || *slot < 0 || *slot >= kRedisSlots) return std::nullopt;
  if (!port.ok() || *port <= 0 || *port >= kPorts) return std::nullopt;
  out.slot = static_cast<uint16_t>(*slot);
  out.to = {std::string(rest.substr(space + 1, colon - space - 1)), static_cast<uint16_t>(*port)};
  if (out.to.host.empty() || out.to.host == "?") out.to.host = asked.host;
  return out;
}

}  // namespace kvplane::store

// What a store keeps: names, descriptions and bytes of KV objects. Plain values.
//
// A value is one object (docs/formats/object.md) of one block run: all layers, both sides, of a fixed number
// of tokens. Its prefix (header and layer directory) comes first and every layer is one contiguous range, so
// that loading can start with layer 0 while the rest is still on its way.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvplane/base/clock.h"
#include "kvplane/tensor/kv_quality.h"

namespace kvplane::store {

// Largest object a store takes. A run of 256 tokens of a 70B model (80 layers, 8 heads of 128, bf16) is 84
// MB.
constexpr uint64_t kMaxStoredBytes = 1ull << 30;
// Keys in one call; longer prompts are looked up in several.
constexpr size_t kMaxKeysPerCall = 65'536;

// The name of an object. `chain` is the whole identity: SHA-256 over everything the KV depends on
// (key_chain.h). `tenant` repeats who owns it, so that quotas and erasure need no index of owners.
struct StoreKey {
  uint64_t tenant = 0;
  std::array<std::byte, 32> chain{};

  auto operator<=>(const StoreKey&) const = default;
};

// Keys come over the wire as they are: whoever may put chooses every byte. So all of them are mixed with
// numbers that are drawn once per process and known to nobody else; a table's order differs from run to run.
struct StoreKeyHash {
  size_t operator()(const StoreKey& key) const;
};

// Immutable bytes with shared ownership: what the DRAM tier keeps is what a reader gets, without a copy.
// Thread safety: as a shared_ptr.
class Slice {
 public:
  Slice() = default;
  Slice(std::shared_ptr<const void> owner, std::span<const std::byte> bytes)
      : owner_(std::move(owner)), bytes_(bytes) {}

  static Slice Own(std::vector<std::byte> bytes) {
    auto owner = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
    const std::span<const std::byte> view(*owner);
    return {std::move(owner), view};
  }

  std::span<const std::byte> bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  // Requires: offset + bytes <= size().
  Slice Sub(size_t offset, size_t bytes) const { return {owner_, bytes_.subspan(offset, bytes)}; }

 private:
  std::shared_ptr<const void> owner_;
  std::span<const std::byte> bytes_;
};

// Quality of an object relative to uncompressed KV, in thousandths. Lossless objects have kLossless; 0 is a
// lossy object of which nothing was measured. A lookup states the least it takes.
constexpr uint16_t kLossless = tensor::kExactQuality;

enum class TierKind : uint8_t { kDram = 0, kDisk = 1, kRemote = 2, kRedis = 3 };
std::string_view Name(TierKind tier);  // "dram", "disk", "remote", "redis"

// What the writer says of an object.
struct EntryMeta {
  uint32_t prefix_bytes = 0;  // codec::ObjectReader::PrefixBytes(): what a ranged reader reads first
  uint16_t quality = 0;       // thousandths; see kLossless
  base::Duration ttl{};       // from the put on; zero: the tier's own default
};

// What a lookup says of an object.
struct EntryInfo {
  uint64_t bytes = 0;
  uint32_t prefix_bytes = 0;
  uint16_t quality = 0;
  TierKind tier = TierKind::kDram;  // the fastest that has it
  base::Duration ttl_left{};        // zero: no end; a copy in a faster tier must not live longer
};

struct ReadRequest {
  StoreKey key{};
  uint64_t offset = 0;
  uint64_t bytes = 0;  // 0: to the end
};

}  // namespace kvplane::store

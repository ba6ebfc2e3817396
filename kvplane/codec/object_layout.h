// Offsets and constants of the object format, shared by writer and reader. docs/formats/object.md is
// normative; the names follow its tables.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kvplane/base/endian.h"
#include "kvplane/codec/object.h"
#include "kvplane/kernel/checksum/checksum.h"

namespace kvplane::codec::layout {

constexpr uint32_t kMagic = 0x4f50564b;  // "KVPO"

// Flags 0..7 are critical: a reader that does not know one refuses the object. 8..15 may be ignored.
constexpr uint16_t kFlagLossy = 1 << 0;
constexpr uint16_t kCriticalFlags = 0x00ff;
constexpr uint16_t kKnownCriticalFlags = kFlagLossy;

// Header.
constexpr size_t kAtMagic = 0;
constexpr size_t kAtMajor = 4;
constexpr size_t kAtMinor = 5;
constexpr size_t kAtFlags = 6;
constexpr size_t kAtDType = 8;
constexpr size_t kAtQualityKey = 9;
constexpr size_t kAtQualityValue = 10;
constexpr size_t kAtReserved0 = 11;
constexpr size_t kAtLayers = 12;
constexpr size_t kAtKvHeads = 14;
constexpr size_t kAtHeadDim = 16;
constexpr size_t kAtHeadGroup = 18;
constexpr size_t kAtFirstToken = 20;
constexpr size_t kAtTokens = 24;
constexpr size_t kAtTileTokens = 28;
constexpr size_t kAtReserved1 = 30;
constexpr size_t kAtKeyStrategyBytes = 32;
constexpr size_t kAtValueStrategyBytes = 34;
constexpr size_t kAtPrefixBytes = 36;
constexpr size_t kAtObjectBytes = 40;
constexpr size_t kAtReserved2 = 48;
constexpr size_t kAtHeaderCrc = 60;

// Identity, right after the header.
constexpr size_t kIdentityBytes = 128;
constexpr size_t kAtModelFingerprint = kObjectHeaderBytes;
constexpr size_t kAtTokenChain = kAtModelFingerprint + 32;
constexpr size_t kAtRope = kAtTokenChain + 32;
constexpr size_t kAtProfile = kAtRope + 16;
constexpr size_t kAtStrategyId = kAtProfile + 16;
constexpr size_t kAtReserved3 = kAtStrategyId + 16;
constexpr size_t kAtStrategyText = kObjectHeaderBytes + kIdentityBytes;

constexpr size_t kDirectoryEntryBytes = 16;  // u64 offset, u64 bytes
constexpr size_t kCrcBytes = 4;
constexpr size_t kIndexEntryBytes = 8;  // u32 coded bytes, u32 crc

constexpr size_t PrefixBytes(size_t strategy_bytes, size_t layers) {
  return kAtStrategyText + strategy_bytes + layers * kDirectoryEntryBytes + kCrcBytes;
}
// Covers the identity block and the layer number besides the entries: the section of another layer or of
// another object is refused although it is whole.
inline uint32_t IndexCrc(std::span<const std::byte> identity, uint32_t layer,
                         std::span<const std::byte> entries) {
  std::array<std::byte, sizeof(layer)> number;
  base::StoreLe(number.data(), layer);
  const auto crc32c = kernel::Checksum().crc32c;
  return crc32c(crc32c(crc32c(0, identity), number), entries);
}
constexpr size_t IndexBytes(size_t tiles) { return tiles * kIndexEntryBytes + kCrcBytes; }

}  // namespace kvplane::codec::layout

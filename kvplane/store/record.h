// Records: how an object lies on a medium that keeps plain values (a disk, Redis). docs/formats/record.md is
// normative: 64 bytes that say what the object is and until when, then the object as it is. The range
// [offset, offset + n) of the object is [kRecordHeaderBytes + offset, ...) of the record, so ranged reads
// need no second look-up.
//
// Thread safety: pure functions.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kvplane/base/clock.h"
#include "kvplane/base/status.h"
#include "kvplane/store/entry.h"

namespace kvplane::store {

constexpr size_t kRecordHeaderBytes = 64;
// The last end of life that base::Duration can tell (the year 2262); a later one means this.
constexpr uint64_t kMaxExpiresUnixMs = static_cast<uint64_t>(
    std::chrono::duration_cast<std::chrono::milliseconds>(base::Duration::max()).count());

struct RecordHeader {
  uint64_t object_bytes = 0;
  uint32_t prefix_bytes = 0;
  uint16_t quality = 0;
  uint64_t expires_unix_ms = 0;  // 0: never; decoded at most kMaxExpiresUnixMs
  StoreKey key{};                // a record that lies under another name is not believed
};

std::array<std::byte, kRecordHeaderBytes> EncodeRecordHeader(const RecordHeader& header);

// kCorrupt: not a record, damaged, of another key than `key`, or impossible; kUnimplemented: a version of the
// future.
base::Result<RecordHeader> DecodeRecordHeader(std::span<const std::byte> bytes, const StoreKey& key);

}  // namespace kvplane::store

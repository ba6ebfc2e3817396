#include "kvplane/store/record.h"

#include <algorithm>
#include <cstring>

#include "kvplane/base/endian.h"
#include "kvplane/kernel/checksum/checksum.h"

namespace kvplane::store {
namespace {

constexpr uint32_t kRecordMagic = 0x5250564bu;  // "KVPR"
constexpr uint8_t kRecordMajor = 1;

// Offsets, as in docs/formats/record.md.
constexpr size_t kAtMagic = 0;
constexpr size_t kAtMajor = 4;
constexpr size_t kAtQuality = 6;
constexpr size_t kAtPrefixBytes = 8;
constexpr size_t kAtObjectBytes = 16;
constexpr size_t kAtExpires = 24;
constexpr size_t kAtKeyCheck = 32;  // the first 24 bytes of the chain hash
constexpr size_t kKeyCheckBytes = 24;
constexpr size_t kAtTenantCheck = 56;  // the low half of the tenant id
constexpr size_t kAtCrc = 60;

}  // namespace

std::array<std::byte, kRecordHeaderBytes> EncodeRecordHeader(const RecordHeader& header) {
  std::array<std::byte, kRecordHeaderBytes> out{};
  base::StoreLe<uint32_t>(&out[kAtMagic], kRecordMagic);
  base::StoreLe<uint8_t>(&out[kAtMajor], kRecordMajor);
  base::StoreLe<uint16_t>(&out[kAtQuality], header.quality);
  base::StoreLe<uint32_t>(&out[kAtPrefixBytes], header.prefix_bytes);
  base::StoreLe<uint64_t>(&out[kAtObjectBytes], header.object_bytes);
  base::StoreLe<uint64_t>(&out[kAtExpires], header.expires_unix_ms);
  std::memcpy(&out[kAtKeyCheck], header.key.chain.data(), kKeyCheckBytes);
  base::StoreLe<uint32_t>(&out[kAtTenantCheck], static_cast<uint32_t>(header.key.tenant));
  base::StoreLe<uint32_t>(&out[kAtCrc], kernel::Crc32c(std::span(out).first(kAtCrc)));
  return out;
}

base::Result<RecordHeader> DecodeRecordHeader(std::span<const std::byte> bytes, const StoreKey& key) {
  if (bytes.size() < kRecordHeaderBytes) {
    return base::Corrupt("a record needs {} bytes of header, {} are there", kRecordHeaderBytes, bytes.size());
  }
  if (base::LoadLe<uint32_t>(&bytes[kAtMagic]) != kRecordMagic)
    return base::Corrupt("not a record: bad magic");
  if (kernel::Crc32c(bytes.first(kAtCrc)) != base::LoadLe<uint32_t>(&bytes[kAtCrc])) {
    return base::Corrupt("record header: checksum mismatch");
  }
  const auto major = base::LoadLe<uint8_t>(&bytes[kAtMajor]);
  if (major != kRecordMajor)
    return base::Unimplemented("record version {}, this reads {}", major, kRecordMajor);
  if (std::memcmp(&bytes[kAtKeyCheck], key.chain.data(), kKeyCheckBytes) != 0 ||
      base::LoadLe<uint32_t>(&bytes[kAtTenantCheck]) != static_cast<uint32_t>(key.tenant)) {
    return base::Corrupt("the record is of another key than the one it lies under");
  }
  RecordHeader out;
  out.quality = base::LoadLe<uint16_t>(&bytes[kAtQuality]);
  out.prefix_bytes = base::LoadLe<uint32_t>(&bytes[kAtPrefixBytes]);
  out.object_bytes = base::LoadLe<uint64_t>(&bytes[kAtObjectBytes]);
  out.expires_unix_ms = std::min(base::LoadLe<uint64_t>(&bytes[kAtExpires]), kMaxExpiresUnixMs);
  out.key = key;
  if (out.object_bytes > kMaxStoredBytes || out.prefix_bytes > out.object_bytes || out.quality > kLossless) {
    return base::Corrupt("record header: {} bytes with a prefix of {} and quality {} cannot be",
                         out.object_bytes, out.prefix_bytes, out.quality);
  }
  return out;
}

}  // namespace kvplane::store

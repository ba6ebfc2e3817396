#include "kvplane/store/record.h"

#include <gtest/gtest.h>

namespace kvplane::store {
namespace {

RecordHeader Example() {
  RecordHeader header{.object_bytes = 1'000'000, .prefix_bytes = 320, .quality = 975, .expires_unix_ms = 42};
  header.key.tenant = 0x1122334455667788;
  header.key.chain.fill(std::byte{7});
  return header;
}

TEST(RecordUnit, RoundTrip) {
  const RecordHeader header = Example();
  const auto bytes = EncodeRecordHeader(header);
  const auto read = DecodeRecordHeader(bytes, header.key);
  ASSERT_TRUE(read.ok()) << read.status().ToString();
  EXPECT_EQ(read->object_bytes, 1'000'000u);
  EXPECT_EQ(read->prefix_bytes, 320u);
  EXPECT_EQ(read->quality, 975);
  EXPECT_EQ(read->expires_unix_ms, 42u);
}

TEST(RecordSafety, EveryFlippedBitAndEveryShortHeaderIsRefused) {
  const RecordHeader header = Example();
  auto bytes = EncodeRecordHeader(header);
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_FALSE(DecodeRecordHeader(bytes, header.key).ok()) << "bit " << bit;
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
  }
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(DecodeRecordHeader(std::span(bytes).first(size), header.key).status().code(),
              base::StatusCode::kCorrupt);
  }
}

TEST(RecordSafety, ARecordOfAnotherKeyIsRefused) {
  const RecordHeader header = Example();
  const auto bytes = EncodeRecordHeader(header);
  StoreKey other = header.key;
  other.chain[0] = std::byte{8};
  EXPECT_EQ(DecodeRecordHeader(bytes, other).status().code(), base::StatusCode::kCorrupt);
  other = header.key;
  other.tenant ^= 1;
  EXPECT_EQ(DecodeRecordHeader(bytes, other).status().code(), base::StatusCode::kCorrupt);
}

TEST(RecordSafety, AnEndThatNoClockReachesIsTheLastThatCanBeTold) {
  RecordHeader header = Example();
  for (const uint64_t expires : {~uint64_t{0}, uint64_t{1} << 63, kMaxExpiresUnixMs + 1}) {
    header.expires_unix_ms = expires;
    const auto decoded = DecodeRecordHeader(EncodeRecordHeader(header), header.key);
    ASSERT_TRUE(decoded.ok()) << decoded.status().ToString();
    EXPECT_EQ(decoded->expires_unix_ms, kMaxExpiresUnixMs);
    EXPECT_GT(base::Duration(std::chrono::milliseconds(decoded->expires_unix_ms)), base::Duration::zero());
  }
}

TEST(RecordSafety, ImpossibleHeadersAreRefused) {
  for (RecordHeader header :
       {RecordHeader{.object_bytes = kMaxStoredBytes + 1},
        RecordHeader{.object_bytes = 10, .prefix_bytes = 11}, RecordHeader{.quality = 1001}}) {
    EXPECT_EQ(DecodeRecordHeader(EncodeRecordHeader(header), header.key).status().code(),
              base::StatusCode::kCorrupt);
  }
}

}  // namespace
}  // namespace kvplane::store

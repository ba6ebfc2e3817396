#include "kvplane/kernel/checksum/checksum.h"

#include <gtest/gtest.h>

#include <string_view>
#include <vector>

#include "kvplane/base/rng.h"

namespace kvplane::kernel {
namespace {

std::span<const std::byte> BytesOf(std::string_view text) { return std::as_bytes(std::span(text)); }

// Values of RFC 3720, appendix B.4, and the usual check string.
TEST(ChecksumUnit, PublishedValues) {
  std::vector<std::byte> ascending(32);
  for (size_t i = 0; i < ascending.size(); ++i) ascending[i] = static_cast<std::byte>(i);
  for (const Isa isa : AvailableIsas()) {
    const auto crc = Checksum(isa).crc32c;
    EXPECT_EQ(crc(0, {}), 0u);
    EXPECT_EQ(crc(0, BytesOf("123456789")), 0xe3069283u);
    EXPECT_EQ(crc(0, std::vector<std::byte>(32)), 0x8a9136aau);
    EXPECT_EQ(crc(0, std::vector<std::byte>(32, std::byte{0xff})), 0x62a8ab43u);
    EXPECT_EQ(crc(0, ascending), 0x46dd794eu);
  }
}

TEST(ChecksumDiff, EveryIsaEqualsScalar) {
  base::Rng rng(1);
  std::vector<std::byte> data(40'000);
  for (std::byte& b : data) b = static_cast<std::byte>(rng.Next());
  const auto scalar = Checksum(Isa::kScalar).crc32c;
  for (const Isa isa : AvailableIsas()) {
    for (int i = 0; i < 400; ++i) {
      const size_t offset = rng.Below(64);
      const size_t size = i < 100 ? static_cast<size_t>(i) : rng.Below(data.size() - offset);
      const auto piece = std::span(data).subspan(offset, size);
      ASSERT_EQ(Checksum(isa).crc32c(7, piece), scalar(7, piece)) << Name(isa) << " size " << size;
    }
  }
}

TEST(ChecksumProperty, ContinuesOverPieces) {
  base::Rng rng(2);
  std::vector<std::byte> data(20'000);
  for (std::byte& b : data) b = static_cast<std::byte>(rng.Next());
  for (const Isa isa : AvailableIsas()) {
    const auto crc = Checksum(isa).crc32c;
    for (int i = 0; i < 50; ++i) {
      const size_t cut = rng.Below(data.size());
      ASSERT_EQ(crc(crc(0, std::span(data).first(cut)), std::span(data).subspan(cut)), crc(0, data));
    }
  }
}

}  // namespace
}  // namespace kvplane::kernel

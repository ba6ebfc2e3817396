#include "kvplane/kernel/pack/pack.h"

#include <gtest/gtest.h>

#include <vector>

#include "kvplane/base/rng.h"

namespace kvplane::kernel {
namespace {

TEST(PackUnit, LowBitsFirst) {
  const uint8_t codes[] = {1, 2, 3, 15, 9};
  std::byte out[3];
  PackRow(codes, 5, 4, out);
  EXPECT_EQ(out[0], std::byte{0x21});
  EXPECT_EQ(out[1], std::byte{0xf3});
  EXPECT_EQ(out[2], std::byte{0x09});

  const uint8_t pairs[] = {3, 0, 1, 2, 1};
  PackRow(pairs, 5, 2, out);
  EXPECT_EQ(out[0], std::byte{0b10'01'00'11});
  EXPECT_EQ(out[1], std::byte{1});

  const uint8_t triples[] = {7, 0, 5};
  PackRow(triples, 3, 3, out);
  EXPECT_EQ(out[0], std::byte{0b01'000'111});
  EXPECT_EQ(out[1], std::byte{1});
}

TEST(PackProperty, RoundTripsEveryWidthAndLength) {
  base::Rng rng(3);
  for (uint32_t bits = 1; bits <= 8; ++bits) {
    for (size_t count = 0; count <= 70; ++count) {
      std::vector<uint8_t> codes(count), back(count);
      for (uint8_t& c : codes) c = static_cast<uint8_t>(rng.Below(uint64_t{1} << bits));
      std::vector<std::byte> packed(PackedRowBytes(count, bits));  // exact, so that ASan sees any overrun
      PackRow(codes.data(), count, bits, packed.data());
      UnpackRow(packed.data(), count, bits, back.data());
      ASSERT_EQ(back, codes) << bits << " bits, " << count << " codes";
    }
  }
}

}  // namespace
}  // namespace kvplane::kernel

#include "kvplane/kernel/pack/pack.h"

#include <gtest/gtest.h>

#include <algorithm>
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

TEST(PackUnit, UnpackReturnsTheLargestCode) {
  for (const Isa isa : AvailableIsas()) {
    for (uint32_t bits = 1; bits <= 8; ++bits) {
      for (const size_t count : {1u, 7u, 63u, 64u, 65u, 200u}) {
        for (size_t at = 0; at < count; at += 1 + count / 9) {
          std::vector<uint8_t> codes(count, 0);
          codes[at] = static_cast<uint8_t>((1u << bits) - 1);
          std::vector<std::byte> packed(PackedRowBytes(count, bits));
          Packing(isa).pack(codes.data(), count, bits, packed.data());
          ASSERT_EQ(Packing(isa).unpack(packed.data(), count, bits, codes.data()), (1u << bits) - 1)
              << Name(isa) << " " << bits << " bits, " << count << " codes, at " << at;
        }
      }
    }
    std::byte none{0xff};
    uint8_t code = 7;
    EXPECT_EQ(Packing(isa).unpack(&none, 0, 3, &code), 0);
    EXPECT_EQ(code, 7);
  }
}

// What follows the last code in its byte is not looked at, and is no code.
TEST(PackUnit, BitsAfterTheLastCodeAreIgnored) {
  for (const Isa isa : AvailableIsas()) {
    const std::byte in[] = {std::byte{0b10'001'010},
                            std::byte{0xff}};  // 2, 1, then the first two bits of a code
    uint8_t codes[2];
    EXPECT_EQ(Packing(isa).unpack(in, 2, 3, codes), 2);
    EXPECT_EQ(codes[0], 2);
    EXPECT_EQ(codes[1], 1);
  }
}

TEST(PackDiff, EveryIsaGivesTheSameBytes) {
  base::Rng rng(4);
  for (int round = 0; round < 4000; ++round) {
    const auto bits = static_cast<uint32_t>(1 + rng.Below(8));
    const size_t count = rng.Below(round % 4 == 0 ? 9000 : 300);
    std::vector<uint8_t> codes(count), back(count);
    for (uint8_t& c : codes) c = static_cast<uint8_t>(rng.Below(uint64_t{1} << bits));
    const uint8_t largest = count == 0 ? uint8_t{0} : *std::max_element(codes.begin(), codes.end());
    std::vector<std::byte> expected(PackedRowBytes(count, bits)), packed(expected.size());
    PackRow(codes.data(), count, bits, expected.data());
    for (const Isa isa : AvailableIsas()) {
      Packing(isa).pack(codes.data(), count, bits, packed.data());
      ASSERT_EQ(packed, expected) << Name(isa) << " " << bits << " bits, " << count << " codes";
      ASSERT_EQ(Packing(isa).unpack(packed.data(), count, bits, back.data()), largest);
      ASSERT_EQ(back, codes) << Name(isa) << " " << bits << " bits, " << count << " codes";
    }
  }
}

}  // namespace
}  // namespace kvplane::kernel
